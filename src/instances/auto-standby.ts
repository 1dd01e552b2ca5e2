// When an instance that nobody uses goes to standby by itself: its policy as the record keeps it, and the rules as pure functions of what was seen and the time.
// What was seen is kept in memory alone: after a restart of the server an instance is idle from then on.

import { z } from 'zod'
import type { InstanceState } from '../api/actions.ts'
import type { AutoStandbyBody, AutoStandbyStatus } from '../api/schemas/auto-standby.ts'
import { formatDuration, parseDuration } from '../api/units.ts'

/** Null in a record: none. */
export const autoStandbyRecord = z
  .object({
    enabled: z.boolean(),
    /** Null only while it is not enabled. */
    idleTimeoutMs: z.number().positive().nullable(),
    /** Networks whose connections don't count. */
    ignoredSources: z.array(z.union([z.cidrv4(), z.cidrv6()])).readonly(),
    /** Ports of the guest, connections to which don't count. */
    ignoredPorts: z.array(z.int()).readonly(),
  })
  .readonly()

export type AutoStandby = z.infer<typeof autoStandbyRecord>

/** What a look at the connections of an instance has shown. Times are milliseconds since 1970. */
export interface Look {
  /** Those that are open and count. */
  readonly connections: number
  /** The end of the last one that is over, as far as that is still known. */
  readonly lastEndedMs: number | null
}

/** What is known of one run of an instance. */
export interface Idleness {
  /** The record's `runningSince`: of another run it says nothing. */
  readonly run: string
  readonly connections: number
  /** Null while somebody uses it. */
  readonly idleSinceMs: number | null
  readonly lastActivityMs: number | null
}

/** What is known after one more look. What ended before the run began is none of its uses. */
export function afterLook(before: Idleness | undefined, run: string, { connections, lastEndedMs }: Look, nowMs: number): Idleness {
  const same = before?.run === run ? before : undefined
  if (connections > 0) return { run, connections, idleSinceMs: null, lastActivityMs: nowMs }
  const endedMs = lastEndedMs !== null && lastEndedMs > Date.parse(run) ? Math.min(lastEndedMs, nowMs) : null
  // Somebody was there at the look before, or it is the first one.
  const idleSinceMs = Math.max(same?.idleSinceMs ?? nowMs, endedMs ?? 0)
  const lastActivityMs = same === undefined ? endedMs : latest(same.lastActivityMs, endedMs)
  return { run, connections, idleSinceMs, lastActivityMs }
}

function latest(one: number | null, other: number | null): number | null {
  return one === null || other === null ? (one ?? other) : Math.max(one, other)
}

/** Everything that the decision hangs on. */
export interface Circumstances {
  /** The hypervisor can put it on standby. */
  readonly supported: boolean
  readonly policy: AutoStandby | null
  readonly state: InstanceState
  readonly runningSince: string | null
  /** Null: none. */
  readonly network: 'user' | 'tap' | null
  readonly idleness: Idleness | undefined
  /** Who uses it by way of the API at this moment, whatever the last look has seen. */
  readonly users: number
  /** The last look at connections failed. */
  readonly isBlind: boolean
  readonly holdUntilMs: number | null
  /** After an attempt that failed: not before. */
  readonly retryAtMs: number | null
  /** An attempt is under way. */
  readonly isRequested: boolean
}

type Verdict = Pick<AutoStandbyStatus, 'eligible' | 'status' | 'reason'> & {
  /** When it is due; only for one that is idle. */
  readonly dueMs?: number
}

/** What becomes of the instance by the rules alone. It goes to standby if and only if that is `ready_for_standby`. */
export function verdictOf(seen: Circumstances, nowMs: number): Verdict {
  const { policy, idleness } = seen
  const not = (status: AutoStandbyStatus['status'], reason: AutoStandbyStatus['reason']): Verdict => ({ eligible: false, status, reason })
  if (!seen.supported) return not('unsupported', 'unsupported_platform')
  if (policy === null) return not('disabled', 'policy_missing')
  if (!policy.enabled || policy.idleTimeoutMs === null) return not('disabled', 'policy_disabled')
  if (seen.state !== 'Running' || seen.runningSince === null) return not('ineligible', 'instance_not_running')
  if (seen.network === null) return not('ineligible', 'network_disabled')
  if (seen.isBlind) return not('error', 'observer_error')
  // Nobody has looked yet.
  if (idleness?.run !== seen.runningSince) return { eligible: true, status: 'idle_countdown', reason: 'idle_timeout_not_elapsed' }
  if (seen.users > 0 || idleness.idleSinceMs === null) return { eligible: true, status: 'active', reason: 'active_inbound_connections' }
  const dueMs = Math.max(idleness.idleSinceMs + policy.idleTimeoutMs, seen.holdUntilMs ?? 0, seen.retryAtMs ?? 0)
  if (nowMs < dueMs) return { eligible: true, status: 'idle_countdown', reason: 'idle_timeout_not_elapsed', dueMs }
  return { eligible: true, status: seen.isRequested ? 'standby_requested' : 'ready_for_standby', reason: 'ready_for_standby', dueMs }
}

/** Where connections are seen, once a second: among the host's sockets, or where its kernel tracks what it forwards. */
const trackingModes = { user: 'host_tcp_sockets', tap: 'host_conntrack' } as const

export function statusOf(seen: Circumstances, nowMs: number): AutoStandbyStatus {
  const { dueMs, ...verdict } = verdictOf(seen, nowMs)
  const { policy, idleness } = seen
  const known = verdict.eligible ? idleness : undefined
  return {
    supported: seen.supported,
    configured: policy !== null,
    enabled: policy?.enabled ?? false,
    ...verdict,
    active_inbound_connections: known?.connections ?? 0,
    tracking_mode: trackingModes[seen.network ?? 'user'],
    idle_timeout: policy === null || policy.idleTimeoutMs === null ? null : formatDuration(policy.idleTimeoutMs),
    idle_since: timeOf(known?.idleSinceMs ?? null),
    last_inbound_activity_at: timeOf(known?.lastActivityMs ?? null),
    next_standby_at: timeOf(dueMs ?? null),
    countdown_remaining: dueMs === undefined ? null : formatDuration(Math.max(0, dueMs - nowMs)),
    hold_until: timeOf(seen.holdUntilMs !== null && seen.holdUntilMs > nowMs ? seen.holdUntilMs : null),
  }
}

function timeOf(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}

/** The policy that a body asks for; the schema has checked its durations and networks. */
export function autoStandbyOf(body: AutoStandbyBody): AutoStandby {
  return {
    enabled: body.enabled,
    idleTimeoutMs: (body.idle_timeout === undefined ? 0 : parseDuration(body.idle_timeout)) || null,
    ignoredSources: body.ignore_source_cidrs,
    ignoredPorts: body.ignore_destination_ports,
  }
}

export function autoStandbyViewOf(policy: AutoStandby | null): { auto_standby?: AutoStandbyBody } {
  if (policy === null) return {}
  const { enabled, idleTimeoutMs, ignoredSources, ignoredPorts } = policy
  return {
    auto_standby: {
      enabled,
      ...(idleTimeoutMs === null ? {} : { idle_timeout: formatDuration(idleTimeoutMs) }),
      ignore_source_cidrs: [...ignoredSources],
      ignore_destination_ports: [...ignoredPorts],
    },
  }
}
