// The rules of restarts, case by case and for any course of events.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  afterExit,
  afterPolicyChange,
  afterStop,
  afterUnhealthy,
  isRestartDue,
  noRestarts,
  restartViewOf,
  sayPlan,
  takeAttempt,
  withoutPlan,
  type ProgramExit,
  type RestartPolicy,
  type Restarts,
  type Supervised,
} from './restart-policy.ts'

const now = Date.parse('2026-11-29T08:00:00.000Z')
const iso = (ms: number): string => new Date(ms).toISOString()
const policy: RestartPolicy = { policy: 'on_failure', backoffMs: 5_000, maxAttempts: 3, stableAfterMs: 600_000 }
const of = (restarts: Partial<Restarts> = {}, change: Partial<Supervised> = {}): Supervised => ({
  restartPolicy: policy,
  restarts: { ...noRestarts, ...restarts },
  runningSince: iso(now - 1_000),
  ...change,
})
const exited = (code: number | null): ProgramExit => ({ code, message: '' })

test('on_failure starts again after a code other than 0, a signal and an unknown end; always after any end; never after none', () => {
  const plans = (kind: RestartPolicy['policy'] | null, exit: ProgramExit): boolean =>
    afterExit(of({}, { restartPolicy: kind === null ? null : { ...policy, policy: kind } }), exit, now).nextAttemptAt !== null
  for (const exit of [exited(1), exited(137), exited(null), null]) assert.equal(plans('on_failure', exit), true)
  assert.equal(plans('on_failure', exited(0)), false)
  for (const exit of [exited(0), exited(1), exited(null), null]) {
    assert.equal(plans('always', exit), true)
    assert.equal(plans(null, exit), false)
  }
})

test('an attempt comes after the backoff, is counted when it is made, and another is planned for the case that it fails', () => {
  const planned = of(afterExit(of(), exited(1), now))
  assert.deepEqual([planned.restarts.attempts, planned.restarts.nextAttemptAt], [0, iso(now + 5_000)])
  assert.equal(isRestartDue(planned, now + 4_999), false)
  assert.equal(isRestartDue(planned, now + 5_000), true)
  assert.deepEqual(takeAttempt(planned, now + 5_100), {
    ...noRestarts,
    attempts: 1,
    lastAttemptAt: iso(now + 5_100),
    nextAttemptAt: iso(now + 10_100),
  })
})

test('after as many attempts as allowed there are no more; without a limit there always are', () => {
  const blocked = afterExit(of({ attempts: 3 }), exited(1), now)
  assert.deepEqual(blocked, { ...noRestarts, attempts: 3, blockedReason: 'max_attempts_exceeded' })
  assert.equal(sayPlan(of(blocked)), 'not started again: 3 attempts in a row did not last (max_attempts_exceeded)')
  assert.deepEqual(takeAttempt(of({ attempts: 3, nextAttemptAt: iso(now) }), now), blocked)
  const unlimited = { restartPolicy: { ...policy, maxAttempts: 0 } }
  assert.notEqual(afterExit(of({ attempts: 1_000 }, unlimited), exited(1), now).nextAttemptAt, null)
})

test('a run that lasted begins the count again, and is shown so while it lasts', () => {
  const lasted = of({ attempts: 3 }, { runningSince: iso(now - 600_000) })
  const short = of({ attempts: 3 }, { runningSince: iso(now - 599_999) })
  assert.equal(afterExit(lasted, exited(1), now).attempts, 0)
  assert.equal(afterExit(short, exited(1), now).attempts, 3)
  assert.deepEqual(
    [lasted, short].map((one) => restartViewOf(one, now).restart_status?.attempts),
    [0, 3],
  )
})

test('an unhealthy instance is planned for once, with its reason; given up, it stays so', () => {
  const planned = afterUnhealthy(of(), now)
  assert.deepEqual(planned, { ...noRestarts, nextAttemptAt: iso(now + 5_000), lastReason: 'health_check_failed' })
  assert.deepEqual(afterUnhealthy(of(planned), now + 1_000), planned)
  const blocked = afterUnhealthy(of({ attempts: 3 }), now)
  assert.equal(blocked.blockedReason, 'max_attempts_exceeded')
  assert.deepEqual(afterUnhealthy(of(blocked, { runningSince: iso(0) }), now), blocked)
  const none = of({}, { restartPolicy: null })
  assert.equal(afterUnhealthy(none, now), none.restarts)
})

test('with another policy what is undecided is decided again, and nothing else is', () => {
  const change = (
    restarts: Partial<Restarts>,
    next: RestartPolicy | null,
    exit: ProgramExit = exited(1),
    process: unknown = null,
  ): Restarts => afterPolicyChange({ ...of(restarts), exit, process }, next, now)
  const anew = { ...noRestarts, nextAttemptAt: iso(now + 5_000) }
  assert.deepEqual(change({ attempts: 3, blockedReason: 'max_attempts_exceeded' }, policy), anew)
  assert.deepEqual(change({ attempts: 1, nextAttemptAt: iso(now + 1) }, policy), anew)
  assert.deepEqual(change({ attempts: 1, nextAttemptAt: iso(now + 1) }, null), noRestarts)
  assert.deepEqual(change({ nextAttemptAt: iso(now + 1) }, policy, exited(0)), noRestarts)
  assert.deepEqual(change({ nextAttemptAt: iso(now + 1) }, policy, null, { pid: 1 }), noRestarts)
  assert.deepEqual(change({}, policy), noRestarts)
  assert.deepEqual(change({ attempts: 2, blockedReason: 'manual_stop' }, policy), { ...noRestarts, blockedReason: 'manual_stop' })
})

test('without a policy nothing of it is shown', () => {
  assert.deepEqual(restartViewOf(of({}, { restartPolicy: null }), now), {})
  assert.deepEqual(restartViewOf(of(), now).restart_policy, {
    policy: 'on_failure',
    backoff: '5s',
    max_attempts: 3,
    stable_after: '10m0s',
  })
})

/** Something that happens to an instance, `afterMs` after what happened before. */
const happening = fc.record({
  what: fc.constantFrom('exit 0', 'exit 1', 'unknown exit', 'unhealthy', 'healthy', 'attempt', 'stop', 'start', 'ready'),
  afterMs: fc.integer({ min: 0, max: 20_000 }),
})
const anyPolicy = fc.record({
  policy: fc.constantFrom('always', 'on_failure'),
  backoffMs: fc.integer({ min: 0, max: 10_000 }),
  maxAttempts: fc.integer({ min: 0, max: 4 }),
  stableAfterMs: fc.integer({ min: 0, max: 60_000 }),
})

test('whatever happens: no attempt before its backoff, none more than allowed in a row, none after a stop until a start', () => {
  fc.assert(
    fc.property(anyPolicy, fc.array(happening, { maxLength: 60 }), (chosen, course) => {
      let at = now
      let one: Supervised & { readonly up: boolean } = { restartPolicy: chosen, restarts: noRestarts, runningSince: null, up: true }
      let [plannedAt, inARow, stopped] = [0, 0, false]
      const become = (restarts: Restarts, change: Partial<typeof one> = {}): void => {
        if (restarts.nextAttemptAt !== null && restarts.nextAttemptAt !== one.restarts.nextAttemptAt) plannedAt = at
        one = { ...one, restarts, ...change }
      }
      const end = (exit: ProgramExit): void => {
        if (!one.up) return
        if (one.runningSince !== null && at - Date.parse(one.runningSince) >= chosen.stableAfterMs) inARow = 0
        become(afterExit(one, exit, at), { up: false, runningSince: null })
      }
      for (const { what, afterMs } of course) {
        at += afterMs
        switch (what) {
          case 'exit 0':
          case 'exit 1':
            end(exited(Number(what.at(-1))))
            break
          case 'unknown exit':
            end(null)
            break
          case 'unhealthy':
            if (!one.up || one.runningSince === null) break
            if (one.restarts.blockedReason === null && at - Date.parse(one.runningSince) >= chosen.stableAfterMs) inARow = 0
            become(afterUnhealthy(one, at))
            break
          case 'healthy':
            if (one.up) become(withoutPlan(one.restarts))
            break
          case 'attempt': {
            if (!isRestartDue(one, at)) break
            assert.ok(at >= plannedAt + chosen.backoffMs, 'not before the backoff')
            assert.ok(!stopped, 'not after a stop')
            const taken = takeAttempt(one, at)
            if (taken.nextAttemptAt !== null) {
              inARow += 1
              assert.ok(chosen.maxAttempts === 0 || inARow <= chosen.maxAttempts, 'not more than allowed')
              assert.equal(taken.attempts, one.restarts.attempts + 1)
              become(withoutPlan(taken), { up: true, runningSince: null })
            } else become(taken)
            break
          }
          case 'stop':
            become(afterStop(one.restarts), { up: false, runningSince: null })
            stopped = true
            break
          case 'start':
            if (one.up) break
            become(noRestarts, { up: true, runningSince: null })
            inARow = 0
            stopped = false
            break
          case 'ready':
            if (one.up && one.runningSince === null) one = { ...one, runningSince: iso(at) }
            break
          default:
            what satisfies never
        }
        assert.ok(one.restarts.nextAttemptAt === null || one.restarts.blockedReason === null, 'planned and blocked exclude each other')
      }
    }),
  )
})
