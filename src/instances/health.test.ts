// What checks show, as a function of their outcomes and the time.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { healthCheck as schema } from '../api/schemas/supervision.ts'
import {
  healthCheckOf,
  healthViewOf,
  isCheckDue,
  isUnhealthy,
  judge,
  noHealth,
  type Health,
  type HealthCheck,
  type Outcome,
} from './health.ts'

const start = Date.parse('2026-11-29T08:00:00.000Z')
const run = new Date(start).toISOString()
const passed: Outcome = { kind: 'passed' }
const failed: Outcome = { kind: 'failed', error: 'status 500 instead of 200' }
const check: HealthCheck = {
  probe: { type: 'tcp', port: 80 },
  intervalMs: 10_000,
  timeoutMs: 2_000,
  startPeriodMs: 30_000,
  failureThreshold: 3,
  successThreshold: 2,
}

/** The health after outcomes that come a second apart, the first one at `fromMs` of the run. */
function after(outcomes: readonly Outcome[], fromMs: number, of: HealthCheck = check): Health {
  return outcomes.reduce((health, outcome, index) => judge(of, health, outcome, start + fromMs + index * 1_000), noHealth(run))
}

test('as many successes in a row as needed make it healthy, as many failures unhealthy', () => {
  assert.equal(after([passed], 60_000).status, 'starting')
  assert.equal(after([passed, passed], 60_000).status, 'healthy')
  assert.equal(after([passed, failed, passed], 60_000).status, 'starting')
  assert.equal(after([failed, failed], 60_000).status, 'starting')
  assert.equal(after([failed, failed, failed], 60_000).status, 'unhealthy')
  assert.equal(after([passed, passed, failed, failed], 60_000).status, 'healthy')
  assert.equal(after([failed, failed, failed, passed], 60_000).status, 'unhealthy')
  assert.equal(after([failed, failed, failed, passed, passed], 60_000).status, 'healthy')
})

test('failures in the start period are counted, and make it unhealthy once that is over', () => {
  const early = after(Array<Outcome>(20).fill(failed), 0)
  assert.deepEqual([early.status, early.failures], ['starting', 20])
  assert.equal(judge(check, early, failed, start + 30_000).status, 'unhealthy')
})

test('what can not be checked is unknown, which is neither a success nor a failure', () => {
  const unknown = after([failed, failed, { kind: 'unknown', error: 'the agent is older' }], 60_000)
  assert.deepEqual([unknown.status, unknown.failures, unknown.lastError], ['unknown', 0, 'the agent is older'])
  assert.equal(judge(check, unknown, failed, start + 90_000).status, 'unknown')
})

test('errors are cut short, and the last one stays when checks pass again', () => {
  const long = after([{ kind: 'failed', error: 'x'.repeat(10_000) }, passed], 60_000)
  assert.equal(long.lastError?.length, 256)
  assert.deepEqual([long.lastFailureMs, long.lastSuccessMs, long.lastCheckedMs], [start + 60_000, start + 61_000, start + 61_000])
})

test('the first check is at once, each other an interval after the end of the one before', () => {
  assert.equal(isCheckDue(check, undefined, start), true)
  const checked = after([passed], 0)
  assert.equal(isCheckDue(check, checked, start + 9_999), false)
  assert.equal(isCheckDue(check, checked, start + 10_000), true)
})

test('what was seen of an earlier run says nothing of this one', () => {
  const sick = after([failed, failed, failed], 60_000)
  const present = { healthCheck: check, runningSince: run }
  const restored = { healthCheck: check, runningSince: new Date(start + 1).toISOString() }
  const shown = (...view: Parameters<typeof healthViewOf>): string | undefined => healthViewOf(...view).health_status?.status
  assert.equal(isUnhealthy(sick, present), true)
  assert.equal(isUnhealthy(sick, restored), false)
  assert.equal(shown(present, sick, 'Running'), 'unhealthy')
  assert.equal(shown(restored, sick, 'Running'), 'starting')
  assert.equal(shown({ healthCheck: check, runningSince: null }, sick, 'Initializing'), 'starting')
  assert.equal(shown({ healthCheck: check, runningSince: null }, sick, 'Standby'), 'unknown')
  assert.equal(shown({ healthCheck: null, runningSince: run }, undefined, 'Running'), 'disabled')
})

test('whatever checks show: healthy and unhealthy need their outcomes in a row, and never both counts at once', () => {
  const outcomes = fc.array(fc.constantFrom(passed, failed), { maxLength: 40 })
  const thresholds = fc.record({ failureThreshold: fc.integer({ min: 1, max: 5 }), successThreshold: fc.integer({ min: 1, max: 5 }) })
  fc.assert(
    fc.property(outcomes, thresholds, fc.integer({ min: 0, max: 40_000 }), (course, chosen, fromMs) => {
      const of = { ...check, ...chosen }
      let before = noHealth(run)
      let row = 0
      for (const [index, outcome] of course.entries()) {
        row = outcome.kind === course[index - 1]?.kind ? row + 1 : 1
        const atMs = fromMs + index * 1_000
        const health = judge(of, before, outcome, start + atMs)
        const threshold = outcome.kind === 'passed' ? of.successThreshold : of.failureThreshold
        const turns = row >= threshold && (outcome.kind === 'passed' || atMs >= of.startPeriodMs)
        assert.equal(health.status, turns ? (outcome.kind === 'passed' ? 'healthy' : 'unhealthy') : before.status)
        assert.deepEqual([health.successes, health.failures], outcome.kind === 'passed' ? [row, 0] : [0, row])
        before = health
      }
    }),
  )
})

test('a body becomes a check, and is shown as it was asked for with all that was left out', () => {
  for (const [body, shown] of [
    [{ http: { port: 80 } }, { type: 'http', http: { port: 80, path: '/', scheme: 'http', expected_status: 200 } }],
    [
      { type: 'tcp', tcp: { port: 5432 } },
      { type: 'tcp', tcp: { port: 5432 } },
    ],
    [{ exec: { command: ['true'], working_dir: '/srv' } }, { type: 'exec', exec: { command: ['true'], working_dir: '/srv' } }],
  ] as const) {
    const view = healthViewOf({ healthCheck: healthCheckOf(schema.parse(body)), runningSince: run }, undefined, 'Running')
    const rest = { interval: '10s', timeout: '2s', start_period: '30s', failure_threshold: 3, success_threshold: 1 }
    assert.deepEqual(view.health_check, { ...shown, ...rest })
    assert.deepEqual(schema.parse(view.health_check), view.health_check)
  }
  for (const none of [{}, { type: 'none' }, { type: 'none', tcp: { port: 1 } }]) assert.equal(healthCheckOf(schema.parse(none)), null)
})

test('a check that says nothing, too much or something else is refused', () => {
  for (const bad of [
    { type: 'http' },
    { type: 'tcp', http: { port: 80 } },
    { tcp: { port: 1 }, exec: { command: ['true'] } },
    { type: 'tcp', tcp: { port: 1 }, http: { port: 80 } },
    { exec: { command: [] } },
    { tcp: { port: 0 } },
    { tcp: { port: 1 }, interval: '0s' },
    { tcp: { port: 1 }, timeout: '2h' },
    { http: { port: 80, path: 'health' } },
    { http: { port: 80, path: '/a b' } },
  ])
    assert.equal(schema.safeParse(bad).success, false, JSON.stringify(bad))
})
