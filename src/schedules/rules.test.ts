// The rules of schedules hold for any interval, any clock and any set of snapshots.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { resourceName } from '../api/schemas/common.ts'
import { newId } from '../platform/ids.ts'
import { broughtBack, firstRun, isAstray, isDue, jitterOf, runAfter, snapshotName, surplus } from './rules.ts'

const HOUR = 3_600_000
const times = fc.integer({ min: Date.parse('2000-01-01'), max: Date.parse('2200-01-01') })
const intervals = fc.integer({ min: 60_000, max: 366 * 24 * HOUR })
const ids = fc.stringMatching(/^[a-z][a-z0-9]{23}$/)

test('jitter is the same for an instance each time, and a tenth of the interval or a quarter of an hour at most', () => {
  fc.assert(
    fc.property(ids, intervals, (id, intervalMs) => {
      const jitter = jitterOf(id, intervalMs)
      assert.equal(jitter, jitterOf(id, intervalMs))
      assert.ok(jitter >= 0 && jitter < Math.min(intervalMs / 10, HOUR / 4), `${jitter}`)
    }),
  )
})

test('schedules that were set at once spread over their jitter', () => {
  const tenths = new Set(Array.from({ length: 500 }, () => Math.floor(jitterOf(newId(), 24 * HOUR) / (HOUR / 40))))
  assert.deepEqual(tenths, new Set([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]))
})

test('a rhythm begins one interval and its jitter from now', () => {
  const first = Date.parse(firstRun({ instanceId: 'web', intervalMs: HOUR }, 1_000_000))
  assert.equal(first, 1_000_000 + HOUR + jitterOf('web', HOUR))
})

test('after a run comes the first time of the rhythm that is still ahead, however many were missed', () => {
  fc.assert(
    fc.property(times, intervals, fc.integer({ min: -HOUR, max: 20_000 * HOUR }), (due, intervalMs, late) => {
      const nextRunAt = new Date(due).toISOString()
      const now = due + late
      const next = Date.parse(runAfter({ instanceId: 'web', intervalMs, nextRunAt }, now))
      assert.ok(next > now && next > due)
      assert.equal((next - due) % intervalMs, 0)
      assert.ok(next - Math.max(now, due) <= intervalMs)
    }),
  )
})

test('a run is due from its time on', () => {
  const rhythm = { instanceId: 'web', intervalMs: HOUR, nextRunAt: '2026-01-02T03:04:05.000Z' }
  const due = Date.parse(rhythm.nextRunAt)
  assert.deepEqual(
    [due - 1, due, due + 1].map((now) => isDue(rhythm, now)),
    [false, true, true],
  )
})

test('no time that a rhythm leads to is astray; after the clock was set back, the next run of the same rhythm is an interval away at most', () => {
  fc.assert(
    fc.property(ids, times, intervals, fc.integer({ min: 0, max: 20_000 * HOUR }), (instanceId, now, intervalMs, back) => {
      const fresh = { instanceId, intervalMs, nextRunAt: firstRun({ instanceId, intervalMs }, now) }
      assert.ok(!isAstray(fresh, now))
      const ran = Date.parse(fresh.nextRunAt) + back
      assert.ok(!isAstray({ ...fresh, nextRunAt: runAfter(fresh, ran) }, ran))
      const earlier = now - back
      if (!isAstray(fresh, earlier)) return
      const brought = Date.parse(broughtBack(fresh, earlier))
      assert.ok(brought >= earlier && brought - earlier < intervalMs)
      assert.equal((Date.parse(fresh.nextRunAt) - brought) % intervalMs, 0)
    }),
  )
})

test('a name is the prefix and the time in UTC, and one of a snapshot for any prefix', () => {
  assert.equal(snapshotName({ namePrefix: null }, Date.parse('2026-01-02T03:04:05.678Z')), 'scheduled-20260102-030405')
  fc.assert(
    fc.property(fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?$/), times, (namePrefix, now) => {
      const name = snapshotName({ namePrefix }, now)
      assert.ok(name.startsWith(`${namePrefix}-`))
      assert.ok(resourceName.safeParse(name).success, name)
    }),
  )
})

const now = Date.parse('2026-06-01T00:00:00.000Z')
const candidates = fc.uniqueArray(
  fc.record({
    id: ids,
    createdAt: fc.integer({ min: now - 50 * HOUR, max: now + 2 * HOUR }).map((ms) => new Date(ms).toISOString()),
    scheduled: fc.boolean(),
    sourceInstanceId: fc.constantFrom('web', 'db'),
  }),
  { selector: ({ id }) => id, maxLength: 30 },
)
const limits = fc.record({ maxCount: fc.nat(8), maxAgeMs: fc.constantFrom(0, HOUR, 24 * HOUR) })

test('only scheduled snapshots of the instance go, oldest first, and what stays is just what count and age allow', () => {
  fc.assert(
    fc.property(candidates, limits, fc.boolean(), (snapshots, { maxCount, maxAgeMs }, tookOne) => {
      const justTaken = tookOne
        ? { id: 'just-taken', createdAt: new Date(now).toISOString(), scheduled: true, sourceInstanceId: 'web' }
        : undefined
      const all = [...snapshots, ...(justTaken === undefined ? [] : [justTaken])]
      const going = surplus(all, { instanceId: 'web', maxCount, maxAgeMs }, justTaken?.id, now)
      const ages = going.map(({ createdAt }) => Date.parse(createdAt))
      assert.deepEqual(
        ages,
        ages.toSorted((one, other) => one - other),
      )
      for (const one of going) assert.ok(one.scheduled && one.sourceInstanceId === 'web' && one.id !== justTaken?.id)

      const own = all.filter((one) => one.scheduled && one.sourceInstanceId === 'web')
      const rank = new Map(
        own
          .toSorted(
            (one, other) =>
              Number(other === justTaken) - Number(one === justTaken) || Date.parse(other.createdAt) - Date.parse(one.createdAt),
          )
          .map(({ createdAt }, index) => [createdAt, index] as const)
          .reverse(), // of those of one instant, the rank of the first
      )
      for (const one of own) {
        if (one === justTaken) continue
        const stays = !going.includes(one)
        const isYoung = maxAgeMs === 0 || Date.parse(one.createdAt) >= now - maxAgeMs
        const namesakes = own.filter(({ createdAt }) => createdAt === one.createdAt).length
        const isAmongNewest = maxCount === 0 || (rank.get(one.createdAt) ?? 0) + namesakes <= maxCount
        const isTooOld = maxCount > 0 && (rank.get(one.createdAt) ?? 0) >= maxCount
        if (namesakes === 1) assert.equal(stays, isYoung && isAmongNewest)
        else if (stays) assert.ok(isYoung && !isTooOld)
      }
      if (maxCount > 0) assert.ok(own.length - going.length <= maxCount)
      if (maxAgeMs === 0) assert.equal(going.length, maxCount === 0 ? 0 : Math.max(0, own.length - maxCount))
    }),
    { numRuns: 500 },
  )
})

test('the snapshot that was just taken stays, also when the clock was set back before it', () => {
  const before = { id: 'before', createdAt: '2026-06-01T10:00:00.000Z', scheduled: true, sourceInstanceId: 'web' }
  const justTaken = { ...before, id: 'just-taken', createdAt: '2026-06-01T09:00:00.000Z' }
  const rule = { instanceId: 'web', maxCount: 1, maxAgeMs: 1 }
  assert.deepEqual(surplus([before, justTaken], rule, justTaken.id, Date.parse('2026-06-02')), [before])
})
