// Setting, showing and deleting schedules: what a change keeps, what is refused, and what lies on disk.

import assert from 'node:assert/strict'
import { access, readdir, readFile, rename, writeFile } from 'node:fs/promises'
import { mock, test } from 'node:test'
import { HOUR, MINUTE, scheduleWorld, START, withClock } from '../../tests/support/schedule-world.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import { setScheduleBody } from '../api/schemas/schedule.ts'

const daily = { interval: '24h', retention: { max_count: 7 } } as const

const refused =
  (code: ErrorCode, words: RegExp) =>
  (error: unknown): boolean =>
    isHypemanError(error, code) && words.test(error.message)

test('a schedule is there with all that was asked for, also after a restart', async () => {
  using _clock = withClock()
  await using first = await scheduleWorld()
  const entry = await first.add({ name: 'web' })
  const body = { interval: '90m', retention: { max_count: 3, max_age: '7200m' }, name_prefix: 'often', metadata: { team: 'a' } }
  const set = await first.service.set('web', body)
  const now = new Date(START).toISOString()
  assert.deepEqual(set, {
    instance_id: entry.id,
    interval: '1h30m0s',
    retention: { max_count: 3, max_age: '120h0m0s' },
    name_prefix: 'often',
    metadata: { team: 'a' },
    created_at: now,
    updated_at: now,
    next_run_at: set.next_run_at,
  })
  await using later = await first.restart()
  for (const ref of ['web', entry.id, entry.id.slice(0, 12)]) assert.deepEqual(await later.service.get(ref), set)
})

test('a change of anything but the interval keeps the next run and what is known of the last; a change of the interval begins a rhythm', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const entry = await world.add()
  await world.schedule(entry, { metadata: { team: 'a' }, name_prefix: 'often' })
  await world.at(world.dueOf(entry.id))
  const before = await world.service.get(entry.id)
  mock.timers.setTime(START + 2 * HOUR)
  const changed = await world.service.set(entry.id, { interval: '60m', retention: { max_age: '1h' }, name_prefix: null })
  const { metadata: _metadata, name_prefix: _prefix, ...kept } = before
  assert.deepEqual(changed, { ...kept, retention: { max_age: '1h0m0s' }, updated_at: new Date(START + 2 * HOUR).toISOString() })
  const slower = await world.service.set(entry.id, { interval: '10h', retention: { max_count: 1 } })
  assert.ok(Date.parse(slower.next_run_at) >= START + 12 * HOUR)
  assert.equal(slower.last_snapshot_id, before.last_snapshot_id)
  assert.equal(slower.created_at, before.created_at)
})

test('a run that is under way when the interval is changed does not bring the old rhythm back', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld({
    faults: {
      async before(step) {
        if (step === 'snapshot.create/stage') await world.service.set(entry.id, { interval: '5h', retention: { max_count: 1 } })
      },
      after: () => undefined,
    },
  })
  const { entry, due } = await world.scheduled()
  await world.at(due)
  assert.ok(world.dueOf(entry.id) >= due + 5 * HOUR)
  assert.notEqual((await world.service.get(entry.id)).last_snapshot_id, undefined)
})

test('an interval below the shortest is refused with the shortest; the setting decides which that is', async () => {
  await using world = await scheduleWorld()
  const entry = await world.add()
  await assert.rejects(
    world.service.set(entry.id, { ...daily, interval: '59s' }),
    refused('invalid_request', /interval: 59s .* at least 1m0s/),
  )
  assert.equal((await world.service.set(entry.id, { ...daily, interval: '1m' })).interval, '1m0s')
  assert.deepEqual(Date.parse((await world.service.get(entry.id)).next_run_at) >= Date.now() + MINUTE - 1_000, true)
})

test('what can not be kept to is refused before anything happens', () => {
  const wrong: readonly (readonly [body: object, words: RegExp])[] = [
    [{ interval: 'daily', retention: { max_count: 1 } }, /a duration is/],
    [{ interval: '-1h', retention: { max_count: 1 } }, /a duration is/],
    [{ interval: '1h' }, /expected object/],
    [{ interval: '1h', retention: {} }, /max_count or max_age/],
    [{ interval: '1h', retention: { max_count: 0, max_age: '0s' } }, /max_count or max_age/],
    [{ interval: '1h', retention: { max_count: -1 } }, />=0/],
    [{ interval: '1h', retention: { max_count: 1, max_age: 'old' } }, /a duration is/],
    [{ interval: '1h', retention: { max_count: 1 }, name_prefix: 'Nightly' }, /a name is/],
    [{ interval: '1h', retention: { max_count: 1 }, name_prefix: 'a'.repeat(48) }, /at most 47/],
    [{ interval: '1h', retention: { max_count: 1 }, metadata: { ä: '1' } }, /Invalid key/],
    [
      { interval: '1h', retention: { max_count: 1 }, metadata: Object.fromEntries(Array.from({ length: 49 }, (_, i) => [`t${i}`, ''])) },
      /at most 48/,
    ],
  ]
  for (const [body, words] of wrong) {
    const { error } = setScheduleBody.safeParse(body)
    assert.match(error?.issues.map(({ message }) => message).join() ?? 'it was taken', words)
  }
  for (const prefix of ['a'.repeat(47), '', null, undefined])
    assert.ok(setScheduleBody.safeParse({ interval: '1h', retention: { max_age: '1h' }, name_prefix: prefix }).success)
})

test('a schedule that was deleted takes no more snapshots, and those that it took stay', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const { entry, due } = await world.scheduled()
  await world.at(due)
  await world.service.remove(entry.record.name)
  await world.at(due + 5 * HOUR)
  assert.equal(world.snapshotsOf(entry.id).length, 1)
  assert.deepEqual(await readdir(world.instances.layout.schedules), [])
  const isAbsent = refused('not_found', /has no snapshot schedule; hypeman snapshot schedule set/)
  await assert.rejects(world.service.get(entry.id), isAbsent)
  await assert.rejects(world.service.remove(entry.id), isAbsent)
})

test('a delete waits for the run that is under way, and finds the schedule free', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const entry = await world.add()
  await world.schedule(entry)
  {
    using _run = await world.context.locks.acquire(entry.id, { waitMs: 0, what: 'a run' })
    await assert.rejects(world.service.remove(entry.id), refused('busy', /snapshot schedule of instance/))
  }
  await world.service.remove(entry.id)
})

test('of an instance that is not there nothing can be scheduled', async () => {
  await using world = await scheduleWorld()
  await assert.rejects(world.service.set('nobody', daily), refused('not_found', /nobody/))
  await assert.rejects(world.service.get('nobody'), refused('not_found', /nobody/))
})

test('a record that can not be written leaves no schedule, or the one from before', async () => {
  let isBroken = true
  await using world = await scheduleWorld({
    faults: {
      before(step) {
        if (step === 'schedule.set/record' && isBroken) throw new Error('the disk fails')
      },
      after: () => undefined,
    },
  })
  const entry = await world.add()
  await assert.rejects(world.service.set(entry.id, daily), /the disk fails/)
  isBroken = false
  const set = await world.service.set(entry.id, daily)
  isBroken = true
  await assert.rejects(world.service.set(entry.id, { ...daily, name_prefix: 'other' }), /the disk fails/)
  assert.deepEqual(await world.service.get(entry.id), set)
})

test('a schedule that can not be read is told and left alone, can not be changed, and goes when it is deleted', async () => {
  await using first = await scheduleWorld()
  const entry = await first.add()
  const other = await first.add()
  for (const one of [entry, other]) await first.schedule(one)
  const file = first.instances.layout.schedule(entry.id)
  await writeFile(file, (await readFile(file, 'utf8')).replace('"maxCount": 2', '"maxCount": 1'))
  await writeFile(`${file}.0123456789ab.tmp`, 'cut off')
  await using world = await first.restart()
  const [unreadable, ...others] = world.context.store.unreadable().values()
  assert.deepEqual(others, [])
  assert.deepEqual([unreadable?.kind, unreadable?.id, unreadable?.path], ['snapshot schedule', entry.id, file])
  await assert.rejects(world.service.get(entry.id), refused('conflict', /can't be used/))
  await assert.rejects(world.service.set(entry.id, daily), refused('conflict', /can't be used/))
  assert.equal((await world.service.get(other.id)).instance_id, other.id)
  await world.service.remove(entry.id)
  await assert.rejects(access(file), { code: 'ENOENT' })
  assert.deepEqual(world.context.store.unreadable().size, 0)
  await world.schedule(entry)
})

test('a schedule under the name of another instance is not taken for its own', async () => {
  await using first = await scheduleWorld()
  const [entry, other] = [await first.add(), await first.add()]
  await first.schedule(entry)
  await rename(first.instances.layout.schedule(entry.id), first.instances.layout.schedule(other.id))
  await using world = await first.restart()
  assert.match(world.context.store.unreadable().get(other.id)?.reason ?? '', new RegExp(`holds the schedule of the instance ${entry.id}`))
})
