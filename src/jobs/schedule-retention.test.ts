// Which scheduled snapshots are deleted, and when; what becomes of a schedule when its instance is. Time is the test's.

import assert from 'node:assert/strict'
import { access, readdir } from 'node:fs/promises'
import { test } from 'node:test'
import { stateOnly } from '../../tests/support/instance-context.ts'
import { HOUR, scheduleWorld, withClock } from '../../tests/support/schedule-world.ts'
import { isHypemanError } from '../api/errors.ts'
import { removeInstance } from '../instances/index.ts'
import { captureSnapshot, removeSnapshot } from '../snapshots/index.ts'

test('what a schedule does not keep goes after a new snapshot is there; what somebody took by hand stays, whatever its tags say', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const [entry, other] = [await world.add(), await world.add()]
  const tags = { 'hypeman.scheduled': 'true', 'hypeman.schedule_instance_id': entry.id }
  const byHand = await captureSnapshot(world.context.snapshots, entry, { kind: 'Stopped', name: '', tags, owner: null, scheduled: false })
  await world.schedule(entry)
  await world.schedule(other, { retention: { max_age: '150m' } })
  const due = Math.max(world.dueOf(entry.id), world.dueOf(other.id))
  for (let hour = 0; hour < 6; hour += 1) await world.at(due + hour * HOUR)
  const left = world.snapshotsOf(entry.id)
  assert.deepEqual(
    left.map(({ id, scheduled }) => [id === byHand.id, scheduled]),
    [
      [true, false],
      [false, true],
      [false, true],
    ],
  )
  assert.equal(Date.parse(left.at(-1)?.createdAt ?? ''), due + 5 * HOUR)
  assert.equal(world.snapshotsOf(other.id).length, 3, 'those of the last two and a half hours')
  assert.ok(world.removals > 0)
  assert.deepEqual((await readdir(world.instances.layout.snapshots)).length, 6)
})

test('a run that fails deletes nothing', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const entry = await world.add()
  await world.schedule(entry, { retention: { max_count: 1, max_age: '1h' } })
  const due = world.dueOf(entry.id)
  await world.at(due)
  const [good] = world.snapshotsOf(entry.id)
  entry.machine = stateOnly('paused')
  for (let hour = 1; hour < 5; hour += 1) await world.at(due + hour * HOUR)
  assert.deepEqual(world.snapshotsOf(entry.id), [good])
  assert.equal((await world.service.get(entry.id)).last_snapshot_id, good?.id)
})

test('a snapshot that is being forked stays until a later run', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const entry = await world.add()
  await world.schedule(entry, { retention: { max_count: 1 } })
  const due = world.dueOf(entry.id)
  await world.at(due)
  const [first] = world.snapshotsOf(entry.id)
  {
    using _fork = await world.context.snapshots.locks.acquire(first?.id ?? '', { waitMs: 0, what: 'it', shared: true })
    await world.at(due + HOUR)
    assert.equal(world.snapshotsOf(entry.id).length, 2)
    assert.equal((await world.service.get(entry.id)).last_error, undefined)
  }
  await world.at(due + 2 * HOUR)
  assert.equal(world.snapshotsOf(entry.id).length, 1)
})

test('the schedule of a deleted instance is kept as long as its snapshots are, ends them by their age, and is then removed', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const [entry, barren] = [await world.add(), await world.add()]
  await world.schedule(entry, { retention: { max_age: '3h' } })
  await world.schedule(barren, { interval: '5h' })
  const due = world.dueOf(entry.id)
  await world.at(due)
  for (const one of [entry, barren]) await removeInstance(world.instances, one, { graceful: false })
  await world.at(due + 1)
  await assert.rejects(world.service.get(barren.id), (error) => isHypemanError(error, 'not_found'))
  await world.at(due + HOUR)
  assert.equal((await world.service.get(entry.id)).last_error, undefined)
  assert.equal(world.snapshotsOf(entry.id).length, 1)
  await assert.rejects(world.service.set(entry.id, { interval: '1h', retention: { max_count: 1 } }), (error) =>
    isHypemanError(error, 'not_found'),
  )
  await using later = await world.restart()
  await later.at(due + 4 * HOUR)
  assert.equal(later.snapshotsOf(entry.id).length, 0)
  await assert.rejects(access(later.instances.layout.schedule(entry.id)), { code: 'ENOENT' })
  await assert.rejects(later.service.get(entry.id), (error) => isHypemanError(error, 'not_found'))
})

test('with a limit of their number alone, the snapshots of a deleted instance stay until somebody deletes them', async () => {
  using _clock = withClock()
  await using world = await scheduleWorld()
  const { entry, due } = await world.scheduled()
  await world.at(due)
  await removeInstance(world.instances, entry, { graceful: false })
  await world.at(due + 1000 * HOUR)
  const [kept] = world.snapshotsOf(entry.id)
  if (kept === undefined) throw new Error('it is gone')
  await removeSnapshot(world.context.snapshots, kept)
  await world.at(due + 1000 * HOUR + 1)
  assert.deepEqual(await readdir(world.instances.layout.schedules), [])
})
