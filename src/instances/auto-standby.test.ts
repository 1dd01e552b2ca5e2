// When an instance goes to standby by itself: each rule, then random histories of looks, holds and failures against what the rules promise.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { autoStandby } from '../api/schemas/auto-standby.ts'
import {
  afterLook,
  autoStandbyOf,
  autoStandbyViewOf,
  statusOf,
  verdictOf,
  type Circumstances,
  type Idleness,
  type Look,
} from './auto-standby.ts'

const SECOND = 1_000
const START = Date.parse('2026-11-29T08:00:00.000Z')
const run = new Date(START).toISOString()
const policy = { enabled: true, idleTimeoutMs: 60 * SECOND, ignoredSources: [], ignoredPorts: [] } as const
const nobody: Look = { connections: 0, lastEndedMs: null }
const somebody: Look = { connections: 2, lastEndedMs: null }

/** After looks at those seconds of the run. */
function after(...looks: readonly (readonly [second: number, look: Look])[]): Idleness | undefined {
  return looks.reduce<Idleness | undefined>((before, [second, look]) => afterLook(before, run, look, START + second * SECOND), undefined)
}

const seen = (change: Partial<Circumstances>): Circumstances => ({
  ...{
    supported: true,
    policy,
    state: 'Running',
    runningSince: run,
    network: 'user',
    idleness: after([0, nobody]),
    users: 0,
    isBlind: false,
  },
  ...{ holdUntilMs: null, retryAtMs: null, isRequested: false, ...change },
})
const at = (second: number, change: Partial<Circumstances> = {}) => verdictOf(seen(change), START + second * SECOND)

test('an instance is idle from the first look that sees nobody, and due when that was its timeout ago', () => {
  assert.deepEqual(at(59.999), { eligible: true, status: 'idle_countdown', reason: 'idle_timeout_not_elapsed', dueMs: START + 60 * SECOND })
  assert.deepEqual(at(60), { eligible: true, status: 'ready_for_standby', reason: 'ready_for_standby', dueMs: START + 60 * SECOND })
  assert.equal(at(60, { isRequested: true }).status, 'standby_requested')
  assert.equal(at(60, { idleness: undefined }).status, 'idle_countdown', 'nobody has looked yet')
})

test('a connection keeps it awake, and counts anew when it is gone', () => {
  assert.deepEqual(at(600, { idleness: after([0, nobody], [50, somebody]) }), {
    ...{ eligible: true, status: 'active', reason: 'active_inbound_connections' },
  })
  const gone = { idleness: after([0, nobody], [50, somebody], [51, nobody]) }
  assert.deepEqual([at(110, gone).status, at(111, gone).status], ['idle_countdown', 'ready_for_standby'])
})

test('a connection that no look has seen open counts from its end, if that is known', () => {
  const idleness = after([0, nobody], [50, { connections: 0, lastEndedMs: START + 49.5 * SECOND }], [51, nobody])
  assert.deepEqual([idleness?.idleSinceMs, idleness?.lastActivityMs], [START + 49.5 * SECOND, START + 49.5 * SECOND])
  const earlier = after([30, { connections: 0, lastEndedMs: START - 1 }])
  assert.deepEqual([earlier?.idleSinceMs, earlier?.lastActivityMs], [START + 30 * SECOND, null], 'before the run it was another one')
})

test('a hold and a failed attempt put it off, and neither makes it earlier', () => {
  assert.equal(at(61, { holdUntilMs: START + 90 * SECOND }).dueMs, START + 90 * SECOND)
  assert.equal(at(61, { retryAtMs: START + 120 * SECOND }).dueMs, START + 120 * SECOND)
  assert.equal(at(61, { holdUntilMs: START + 30 * SECOND, retryAtMs: START }).status, 'ready_for_standby')
})

const refusals: readonly (readonly [what: Partial<Circumstances>, status: string, reason: string])[] = [
  [{ supported: false }, 'unsupported', 'unsupported_platform'],
  [{ policy: null }, 'disabled', 'policy_missing'],
  [{ policy: { ...policy, enabled: false } }, 'disabled', 'policy_disabled'],
  [{ state: 'Stopped', runningSince: null }, 'ineligible', 'instance_not_running'],
  [{ state: 'Paused' }, 'ineligible', 'instance_not_running'],
  [{ network: null }, 'ineligible', 'network_disabled'],
  [{ isBlind: true }, 'error', 'observer_error'],
]
for (const [what, status, reason] of refusals)
  test(`${reason}: it never goes, and the status says why (${JSON.stringify(Object.keys(what))})`, () => {
    const told = statusOf(seen(what), START + 600 * SECOND)
    assert.deepEqual([told.status, told.reason, told.eligible], [status, reason, false])
    assert.deepEqual(
      [told.next_standby_at, told.idle_since, told.countdown_remaining, told.active_inbound_connections],
      [null, null, null, 0],
    )
  })

test('the status tells everything that the decision hangs on, in the words of the wire', () => {
  const idleness = after([0, somebody], [10, nobody])
  assert.deepEqual(statusOf(seen({ idleness, holdUntilMs: START + 80 * SECOND }), START + 20 * SECOND), {
    ...{ supported: true, configured: true, enabled: true, eligible: true },
    ...{ status: 'idle_countdown', reason: 'idle_timeout_not_elapsed', active_inbound_connections: 0, tracking_mode: 'host_tcp_sockets' },
    idle_timeout: '1m0s',
    idle_since: '2026-11-29T08:00:10.000Z',
    last_inbound_activity_at: '2026-11-29T08:00:00.000Z',
    next_standby_at: '2026-11-29T08:01:20.000Z',
    countdown_remaining: '1m0s',
    hold_until: '2026-11-29T08:01:20.000Z',
  })
  assert.equal(statusOf(seen({ holdUntilMs: START + SECOND }), START + 20 * SECOND).hold_until, null, 'a hold that is over')
  assert.equal(statusOf(seen({ idleness: after([0, somebody]) }), START).active_inbound_connections, 2)
})

test('what was seen of another run says nothing', () => {
  const idleness = afterLook(after([0, nobody]), new Date(START + 100 * SECOND).toISOString(), nobody, START + 100 * SECOND)
  assert.equal(idleness.idleSinceMs, START + 100 * SECOND)
  assert.equal(at(600, { runningSince: new Date(START + 100 * SECOND).toISOString() }).status, 'idle_countdown')
})

test('a policy goes from the wire to the record and back; an enabled one needs a timeout, and networks must be some', () => {
  const body = { enabled: true, idle_timeout: '10m', ignore_source_cidrs: ['10.0.0.0/8', 'fd00::/8'], ignore_destination_ports: [9100] }
  const stored = autoStandbyOf(autoStandby.parse(body))
  assert.deepEqual(stored.idleTimeoutMs, 600_000)
  assert.deepEqual(autoStandbyViewOf(stored).auto_standby, { ...body, idle_timeout: '10m0s' })
  assert.deepEqual(autoStandbyViewOf(autoStandbyOf(autoStandby.parse({}))).auto_standby, {
    ...{ enabled: false, ignore_source_cidrs: [], ignore_destination_ports: [] },
  })
  assert.deepEqual(autoStandbyViewOf(null), {})
  for (const wrong of [
    { enabled: true },
    { enabled: true, idle_timeout: '0s' },
    { enabled: true, idle_timeout: 'soon' },
    { ...body, ignore_source_cidrs: ['10.0.0.0'] },
    { ...body, ignore_source_cidrs: ['10.0.0.0/33'] },
    { ...body, ignore_destination_ports: [0] },
  ])
    assert.equal(autoStandby.safeParse(wrong).success, false, JSON.stringify(wrong))
})

/** One second of a history: what the look sees, and whether a hold comes. */
const second = fc.record({
  connections: fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.integer({ min: 1, max: 3 }) }),
  /** One that ended so many milliseconds ago. */
  endedAgoMs: fc.oneof({ weight: 6, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: fc.integer({ min: 0, max: 60_000 }) }),
  hold: fc.oneof({ weight: 9, arbitrary: fc.constant(false) }, { weight: 1, arbitrary: fc.constant(true) }),
})

test('in any history it is due only when it was unused and not held for its timeout, and then at once', () => {
  fc.assert(
    fc.property(fc.array(second, { maxLength: 60 }), fc.integer({ min: 1, max: 20 }), (history, timeout) => {
      const idleTimeoutMs = timeout * SECOND
      let idleness: Idleness | undefined
      let holdUntilMs: number | null = null
      /** By a plainer rule: the last instant at which it was used, or looked at for the first time. */
      let lastUseMs = START
      for (const [index, { connections, endedAgoMs, hold }] of history.entries()) {
        const nowMs = START + index * SECOND
        if (hold) holdUntilMs = nowMs + idleTimeoutMs
        const lastEndedMs = endedAgoMs === null ? null : nowMs - endedAgoMs
        idleness = afterLook(idleness, run, { connections, lastEndedMs }, nowMs)
        // Whoever was there at the last look may have gone any time until this one.
        const wasThere = index > 0 && (history[index - 1]?.connections ?? 0) > 0
        if (connections > 0 || wasThere || index === 0) lastUseMs = nowMs
        else if (lastEndedMs !== null && lastEndedMs > START) lastUseMs = Math.max(lastUseMs, lastEndedMs)
        const { status, dueMs } = verdictOf(seen({ policy: { ...policy, idleTimeoutMs }, idleness, holdUntilMs }), nowMs)
        const expected: number | undefined = connections > 0 ? undefined : Math.max(lastUseMs + idleTimeoutMs, holdUntilMs ?? 0)
        assert.deepEqual([dueMs, status === 'ready_for_standby'], [expected, expected !== undefined && nowMs >= expected])
      }
    }),
  )
})

test('who began to use it since the last look keeps it from standby, whatever that look has seen', () => {
  assert.equal(at(60, { isRequested: true }).status, 'standby_requested')
  assert.partialDeepStrictEqual(at(60, { isRequested: true, users: 1 }), { status: 'active', reason: 'active_inbound_connections' })
})
