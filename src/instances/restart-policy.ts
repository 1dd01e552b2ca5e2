// When an instance is started again by itself: what is kept of it in the record, and the rules as pure functions of the record and the time.
// What is planned is in the record, so a restart of the server forgets nothing; who acts on it is restart.ts.

import { z } from 'zod'
import type { InstanceView } from '../api/schemas/instance.ts'
import type { RestartPolicyBody } from '../api/schemas/supervision.ts'
import { timestamp } from '../api/schemas/common.ts'
import { formatDuration, parseDuration } from '../api/units.ts'

/** Null in a record: never. */
export const restartPolicyRecord = z
  .object({
    policy: z.enum(['always', 'on_failure']),
    backoffMs: z.number().nonnegative(),
    /** 0: no limit. */
    maxAttempts: z.int().nonnegative(),
    stableAfterMs: z.number().nonnegative(),
  })
  .readonly()

export const restartsRecord = z
  .object({
    /** In a row. */
    attempts: z.int().nonnegative(),
    lastAttemptAt: timestamp.nullable(),
    /** Set from the moment in which a restart is planned until its VMM is on record. */
    nextAttemptAt: timestamp.nullable(),
    blockedReason: z.enum(['manual_stop', 'max_attempts_exceeded']).nullable(),
    lastReason: z.literal('health_check_failed').nullable(),
  })
  .readonly()

export type RestartPolicy = z.infer<typeof restartPolicyRecord>
export type Restarts = z.infer<typeof restartsRecord>

/** What the rules need to know of an instance. */
export interface Supervised {
  readonly restartPolicy: RestartPolicy | null
  readonly restarts: Restarts
  /** Since when it is Running, null while it is not. */
  readonly runningSince: string | null
}

export type ProgramExit = { readonly code: number | null; readonly message: string } | null

export const noRestarts: Restarts = { attempts: 0, lastAttemptAt: null, nextAttemptAt: null, blockedReason: null, lastReason: null }

/** After an end that nobody asked for. `exit` is what is known of it; the record still says since when the instance was Running. */
export function afterExit(record: Supervised, exit: ProgramExit, nowMs: number): Restarts {
  const { restartPolicy: policy } = record
  const restarts = { ...record.restarts, attempts: attemptsOf(record, nowMs), nextAttemptAt: null }
  return policy !== null && callsForRestart(policy, exit) ? planned(policy, restarts, nowMs) : restarts
}

/** After checks that made a Running instance unhealthy: it is stopped and started, unless it gets well before. What is blocked stays so. */
export function afterUnhealthy(record: Supervised, nowMs: number): Restarts {
  const { restartPolicy: policy, restarts } = record
  if (policy === null || restarts.nextAttemptAt !== null || restarts.blockedReason !== null) return restarts
  return planned(policy, { ...restarts, attempts: attemptsOf(record, nowMs), lastReason: 'health_check_failed' }, nowMs)
}

/** Nothing is planned any more. */
export function withoutPlan(restarts: Restarts): Restarts {
  return { ...restarts, nextAttemptAt: null }
}

/** After a stop on request: nothing but a start on request ends it. */
export function afterStop(restarts: Restarts): Restarts {
  return { ...restarts, nextAttemptAt: null, blockedReason: 'manual_stop' }
}

/** Takes an attempt that is due. The next one is planned already, for the case that this one fails; without a plan it must not be made. */
export function takeAttempt({ restartPolicy: policy, restarts }: Supervised, nowMs: number): Restarts {
  if (policy === null) return withoutPlan(restarts)
  const next = planned(policy, restarts, nowMs)
  return next.nextAttemptAt === null ? next : { ...next, attempts: restarts.attempts + 1, lastAttemptAt: timeOf(nowMs) }
}

/** With another policy attempts are counted anew, and what was planned, or given up, is decided again. Other ends stay as they are. */
export function afterPolicyChange(
  record: Supervised & { readonly exit: ProgramExit; readonly process: unknown },
  policy: RestartPolicy | null,
  nowMs: number,
): Restarts {
  const { restarts } = record
  const stopped = restarts.blockedReason === 'manual_stop'
  const fresh: Restarts = { ...noRestarts, blockedReason: stopped ? 'manual_stop' : null }
  const undecided = restarts.nextAttemptAt !== null || restarts.blockedReason === 'max_attempts_exceeded'
  // One that runs has an unhealthy check, which says so again.
  if (policy === null || !undecided || record.process !== null || !callsForRestart(policy, record.exit)) return fresh
  return planned(policy, fresh, nowMs)
}

export function isRestartDue({ restarts }: Pick<Supervised, 'restarts'>, nowMs: number): boolean {
  return restarts.nextAttemptAt !== null && Date.parse(restarts.nextAttemptAt) <= nowMs
}

/** An end without an exit code was a failure. */
function callsForRestart({ policy }: RestartPolicy, exit: ProgramExit): boolean {
  return policy === 'always' || exit?.code !== 0
}

function planned({ maxAttempts, backoffMs }: RestartPolicy, restarts: Restarts, nowMs: number): Restarts {
  if (maxAttempts > 0 && restarts.attempts >= maxAttempts)
    return { ...restarts, nextAttemptAt: null, blockedReason: 'max_attempts_exceeded' }
  return { ...restarts, nextAttemptAt: timeOf(nowMs + backoffMs), blockedReason: null }
}

/** The count, begun again once the present run is a stable one. */
function attemptsOf({ restartPolicy: policy, restarts, runningSince }: Supervised, nowMs: number): number {
  const isStable = policy !== null && runningSince !== null && nowMs - Date.parse(runningSince) >= policy.stableAfterMs
  return isStable ? 0 : restarts.attempts
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString()
}

/** The policy that a body asks for; the schema has checked its durations. */
export function policyOf(body: RestartPolicyBody): RestartPolicy | null {
  if (body.policy === 'never') return null
  return {
    policy: body.policy,
    backoffMs: parseDuration(body.backoff) ?? 0,
    maxAttempts: body.max_attempts,
    stableAfterMs: parseDuration(body.stable_after) ?? 0,
  }
}

export function restartViewOf(record: Supervised, nowMs: number): Pick<InstanceView, 'restart_policy' | 'restart_status'> {
  const { restartPolicy: policy, restarts } = record
  if (policy === null) return {}
  return {
    restart_policy: {
      policy: policy.policy,
      backoff: formatDuration(policy.backoffMs),
      max_attempts: policy.maxAttempts,
      stable_after: formatDuration(policy.stableAfterMs),
    },
    restart_status: {
      attempts: restarts.blockedReason === null ? attemptsOf(record, nowMs) : restarts.attempts,
      last_attempt_at: restarts.lastAttemptAt,
      next_attempt_at: restarts.nextAttemptAt,
      blocked_reason: restarts.blockedReason,
      last_reason: restarts.lastReason,
    },
  }
}

/** What was decided, in words; undefined if there is nothing to say. */
export function sayPlan({ restartPolicy: policy, restarts }: Supervised): string | undefined {
  if (policy === null) return undefined
  if (restarts.blockedReason === 'max_attempts_exceeded')
    return `not started again: ${restarts.attempts} attempts in a row did not last (max_attempts_exceeded)`
  if (restarts.nextAttemptAt === null) return undefined
  const limit = policy.maxAttempts === 0 ? '' : ` of ${policy.maxAttempts}`
  return `attempt ${restarts.attempts + 1}${limit} to start it again is at ${restarts.nextAttemptAt}`
}
