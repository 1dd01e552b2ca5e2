// Instances are snapshotted when their schedules say, in the state that they are in; what fails is told and harms nothing. Time is the test's.

import assert from 'node:assert/strict'
import { readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { mock, test } from 'node:test'
import { stateOnly } from '../../tests/support/instance-context.ts'
import { HOUR, MINUTE, scheduleWorld, START, withClock } from '../../tests/support/schedule-world.ts'
import { until } from '../../tests/support/until.ts'
import { captureSnapshot } from '../snapshots/index.ts'

const kinds = (snapshots: readonly { readonly kind: string }[]): string[] => snapshots.map(({ kind }) => kind)

test('a snapshot is taken when its schedule is due, not before, and then at each interval', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const entry = await world.add()
  await world.schedule(entry, { name_prefix: 'hourly', metadata: { team: 'web' } })
  const first = world.dueOf(entry.id)
  assert.ok(first >= START + HOUR && first < START + 1.1 * HOUR)
  await world.at(first - 1)
  assert.deepEqual(world.snapshotsOf(entry.id), [])
  await world.at(first)
  await world.at(first + HOUR - 1)
  const [taken, ...others] = world.snapshotsOf(entry.id)
  assert.deepEqual(others, [])
  assert.deepEqual(taken?.tags, { team: 'web', 'hypeman.scheduled': 'true', 'hypeman.schedule_instance_id': entry.id })
  assert.match(taken?.name ?? '', /^hourly-20260102-04\d{4}$/)
  assert.equal(taken?.scheduled, true)
  await world.at(first + HOUR)
  assert.equal(world.snapshotsOf(entry.id).length, 2)
  const { created_at: _created, updated_at: _updated, ...status } = await world.service.get(entry.id)
  assert.deepEqual(status, {
    instance_id: entry.id,
    interval: '1h0m0s',
    retention: { max_count: 2 },
    name_prefix: 'hourly',
    metadata: { team: 'web' },
    next_run_at: new Date(first + 2 * HOUR).toISOString(),
    last_run_at: new Date(first + HOUR).toISOString(),
    last_snapshot_id: world.snapshotsOf(entry.id).at(-1)?.id,
  })
})

test('the worker wakes by itself when the next run is due', async () => {
  await using world = await scheduleWorld()
  const entry = await world.add()
  mock.timers.enable({ apis: ['Date', 'setTimeout'], now: START })
  try {
    await world.schedule(entry, { interval: '1m' })
    const wait = world.dueOf(entry.id) - START
    mock.timers.tick(wait - 1)
    await world.worker.idle()
    assert.deepEqual(world.snapshotsOf(entry.id), [])
    mock.timers.tick(1)
    await world.worker.idle()
    assert.equal(world.snapshotsOf(entry.id).length, 1)
  } finally {
    mock.timers.reset()
  }
})

test('of what was missed while the server was away one run is made up for, and the rhythm goes on as it was', async () => {
  using _clock = withClock()
  await using first = await scheduleWorld()
  const { entry, due } = await first.scheduled()
  await using world = await first.restart()
  assert.equal(world.dueOf(entry.id), due, 'a restart moves nothing')
  await world.at(due + 100.5 * HOUR)
  assert.equal(world.snapshotsOf(entry.id).length, 1)
  assert.equal(world.dueOf(entry.id), due + 101 * HOUR)
})

test('a clock that is set back does not keep a schedule waiting longer than its interval', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const { entry, due } = await world.scheduled()
  await world.at(due + 1000 * HOUR)
  await world.at(START)
  const next = world.dueOf(entry.id)
  assert.ok(next > START && next <= START + HOUR)
  assert.equal((due - next) % HOUR, 0, 'the rhythm is the same')
  await world.at(next)
  assert.equal(world.snapshotsOf(entry.id).length, 2)
})

test('the state of the instance decides what is taken: with memory in standby, without when stopped', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const { entry, due } = await world.scheduled()
  await world.at(due)
  entry.holdsMemory = true
  await world.at(due + HOUR)
  assert.deepEqual(kinds(world.snapshotsOf(entry.id)), ['Stopped', 'Standby'])
})

for (const [state, status] of [
  ['Initializing', 'running'],
  ['Paused', 'paused'],
  ['Shutdown', 'shutdown'],
  ['Created', 'created'],
] as const)
  test(`a run that finds its instance ${state} is skipped, says so, and the next one is made as ever`, async () => {
    using _clock = withClock()
    await using world = await scheduleWorld()
    const entry = await world.add()
    await world.schedule(entry)
    const due = world.dueOf(entry.id)
    entry.machine = stateOnly(status)
    await world.at(due)
    const skipped = await world.service.get(entry.id)
    assert.match(
      skipped.last_error ?? '',
      new RegExp(`is ${state}; a scheduled snapshot is taken of a Running, Standby or Stopped instance`),
    )
    assert.equal(skipped.last_run_at, new Date(due).toISOString())
    assert.equal(skipped.last_snapshot_id, undefined)
    entry.machine = undefined
    await world.at(due + HOUR)
    const next = await world.service.get(entry.id)
    assert.equal(next.last_error, undefined)
    assert.equal(next.last_snapshot_id, world.snapshotsOf(entry.id)[0]?.id)
  })

test('an instance that stays busy, or a name that is taken, fails one run and no more', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const { entry, due } = await world.scheduled()
  {
    using _busy = await world.instances.locks.acquire(entry.id, { waitMs: 0, what: 'the instance' })
    await world.at(due)
  }
  assert.match((await world.service.get(entry.id)).last_error ?? '', /is busy with another operation/)
  const next = new Date(due + HOUR).toISOString().replaceAll(/[-:]/g, '')
  const name = `scheduled-${next.slice(0, 8)}-${next.slice(9, 15)}`
  const clash = await captureSnapshot(world.context.snapshots, entry, { kind: 'Stopped', name, tags: {}, owner: null, scheduled: false })
  await world.at(due + HOUR)
  assert.match((await world.service.get(entry.id)).last_error ?? '', new RegExp(`${clash.id} .* has the name`))
  await world.at(due + 2 * HOUR)
  assert.deepEqual(
    world.snapshotsOf(entry.id).map(({ scheduled }) => scheduled),
    [false, true],
  )
})

test('an instance whose record can not be read is not a deleted one: its schedule stays, and says what is wrong', async () => {
  using _clock = withClock()
  await using first = await scheduleWorld()
  const { entry, due } = await first.scheduled()
  await writeFile(path.join(first.instances.layout.instance(entry.id), 'record.json'), 'damaged')
  first.instances.store.forget(entry)
  await first.instances.store.load(async () => false)
  await first.at(due)
  assert.match((await first.service.get(entry.id)).last_error ?? '', /can't be used/)
})

test('a run that the end of the server cuts off is due when the server is back, and is no failure', async () => {
  using _clock = withClock()
  const stopping = new AbortController()
  await using first = await scheduleWorld({
    stopping: stopping.signal,
    faults: {
      before: (step) => (step === 'snapshot.create/record' ? stopping.abort(new Error('the server is stopping')) : undefined),
      after: () => undefined,
    },
  })
  const { entry, due } = await first.scheduled()
  await first.at(due)
  assert.deepEqual(first.snapshotsOf(entry.id), [])
  assert.deepEqual(await readdir(first.instances.layout.staging), [])
  assert.equal(first.dueOf(entry.id), due)
  assert.equal((await first.service.get(entry.id)).last_error, undefined)
})

test('a status that can not be written is shown all the same, is not tried again at once, and is written by the next run', async () => {
  using _clock = withClock()
  let failures = 0
  let isBroken = true
  await using world = await scheduleWorld({
    faults: {
      before(step) {
        if (step !== 'schedule.run/record' || !isBroken) return
        failures += 1
        throw new Error('the disk fails')
      },
      after: () => undefined,
    },
  })
  const { entry, due } = await world.scheduled()
  await world.at(due)
  assert.equal(failures, 1)
  assert.equal((await world.service.get(entry.id)).last_snapshot_id, world.snapshotsOf(entry.id)[0]?.id)
  isBroken = false
  await using later = await world.restart()
  assert.equal(later.dueOf(entry.id), due, 'on disk it did not run')
  await later.at(due + MINUTE)
  assert.equal(later.dueOf(entry.id), due + HOUR)
})

test('of many that are due two run at a time, and all run', async () => {
  using _clock = withClock()
  let [running, most] = [0, 0]
  await using world = await scheduleWorld({
    faults: {
      before(step) {
        if (step === 'snapshot.create/stage') most = Math.max(most, (running += 1))
      },
      after(step) {
        if (step === 'snapshot.create/commit') running -= 1
      },
    },
  })
  const entries = await Promise.all(Array.from({ length: 7 }, () => world.add()))
  for (const entry of entries) await world.schedule(entry)
  await world.at(START + 2 * HOUR)
  await until('all have run', () => entries.every(({ id }) => world.snapshotsOf(id).length === 1))
  assert.equal(most, 2)
})

test('after it is disposed of, nothing is taken any more', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const entry = await world.add()
  await world.schedule(entry)
  await world.worker[Symbol.asyncDispose]()
  await world.at(START + 5 * HOUR)
  assert.deepEqual(world.snapshotsOf(entry.id), [])
})
