// Health of an instance's program: its check as the record keeps it, and what checks have shown, as pure functions of outcomes and the time.
// What was seen is kept in memory alone: after a restart of the server checks begin anew.

import { z } from 'zod'
import type { InstanceState } from '../api/actions.ts'
import type { InstanceView } from '../api/schemas/instance.ts'
import type { HealthCheckBody } from '../api/schemas/supervision.ts'
import { formatDuration, parseDuration } from '../api/units.ts'

const probe = z.discriminatedUnion('type', [
  z
    .object({ type: z.literal('http'), port: z.int(), path: z.string(), scheme: z.enum(['http', 'https']), expectedStatus: z.int() })
    .readonly(),
  z.object({ type: z.literal('tcp'), port: z.int() }).readonly(),
  z.object({ type: z.literal('exec'), command: z.array(z.string()).readonly(), workingDir: z.string().nullable() }).readonly(),
])

/** Null in a record: none. */
export const healthCheckRecord = z
  .object({
    probe,
    intervalMs: z.number().positive(),
    timeoutMs: z.number().positive(),
    startPeriodMs: z.number().nonnegative(),
    failureThreshold: z.int().positive(),
    successThreshold: z.int().positive(),
  })
  .readonly()

export type Probe = z.infer<typeof probe>
export type HealthCheck = z.infer<typeof healthCheckRecord>

/** `unknown`: the guest can't be asked in this way, which says nothing about its program. */
export type Outcome = { readonly kind: 'passed' } | { readonly kind: 'failed' | 'unknown'; readonly error: string }

/** What was seen of one run of an instance. */
export interface Health {
  /** The record's `runningSince`: of another run it says nothing. */
  readonly run: string
  readonly status: 'starting' | 'healthy' | 'unhealthy' | 'unknown'
  readonly successes: number
  readonly failures: number
  /** Milliseconds since 1970. */
  readonly lastCheckedMs: number | null
  readonly lastSuccessMs: number | null
  readonly lastFailureMs: number | null
  readonly lastError: string | null
}

/** Of errors no more than this is kept, in characters. */
const LONGEST_ERROR = 256

export function noHealth(run: string): Health {
  return {
    run,
    status: 'starting',
    successes: 0,
    failures: 0,
    lastCheckedMs: null,
    lastSuccessMs: null,
    lastFailureMs: null,
    lastError: null,
  }
}

/** What is known after one more check. */
export function judge(check: HealthCheck, before: Health, outcome: Outcome, nowMs: number): Health {
  const seen = { ...before, lastCheckedMs: nowMs }
  if (outcome.kind === 'passed') {
    const successes = before.successes + 1
    const status = successes >= check.successThreshold ? 'healthy' : before.status
    return { ...seen, status, successes, failures: 0, lastSuccessMs: nowMs }
  }
  const lastError = outcome.error.length > LONGEST_ERROR ? `${outcome.error.slice(0, LONGEST_ERROR - 1)}…` : outcome.error
  if (outcome.kind === 'unknown') return { ...seen, status: 'unknown', successes: 0, failures: 0, lastError }
  const failures = before.failures + 1
  const counts = failures >= check.failureThreshold && nowMs - Date.parse(before.run) >= check.startPeriodMs
  return { ...seen, status: counts ? 'unhealthy' : before.status, successes: 0, failures, lastFailureMs: nowMs, lastError }
}

export function isUnhealthy(health: Health | undefined, { runningSince }: Pick<Watched, 'runningSince'>): boolean {
  return health?.status === 'unhealthy' && health.run === runningSince
}

/** Whether it is time for the next check of a run: the first one is at once. */
export function isCheckDue(check: HealthCheck, health: Health | undefined, nowMs: number): boolean {
  return health === undefined || health.lastCheckedMs === null || nowMs - health.lastCheckedMs >= check.intervalMs
}

/** The check that a body asks for; null for none. The schema has checked that it describes one. */
export function healthCheckOf(body: HealthCheckBody): HealthCheck | null {
  const asked = probeOf(body)
  if (asked === undefined) return null
  return {
    probe: asked,
    intervalMs: parseDuration(body.interval) ?? 0,
    timeoutMs: parseDuration(body.timeout) ?? 0,
    startPeriodMs: parseDuration(body.start_period) ?? 0,
    failureThreshold: body.failure_threshold,
    successThreshold: body.success_threshold,
  }
}

function probeOf({ type, http, tcp, exec }: HealthCheckBody): Probe | undefined {
  if (type === 'none') return undefined
  if (http !== undefined)
    return { type: 'http', port: http.port, path: http.path, scheme: http.scheme, expectedStatus: http.expected_status }
  if (tcp !== undefined) return { type: 'tcp', port: tcp.port }
  return exec === undefined ? undefined : { type: 'exec', command: exec.command, workingDir: exec.working_dir ?? null }
}

type Watched = { readonly healthCheck: HealthCheck | null; readonly runningSince: string | null }

export function healthViewOf(
  { healthCheck: check, runningSince }: Watched,
  health: Health | undefined,
  state: InstanceState,
): Pick<InstanceView, 'health_check' | 'health_status'> {
  const nothing = { consecutive_successes: 0, consecutive_failures: 0 }
  if (check === null) return { health_status: { status: 'disabled', ...nothing } }
  return { health_check: checkView(check), health_status: statusView(runningSince, health, state) ?? { status: 'unknown', ...nothing } }
}

/** Undefined where nothing runs that could be checked. */
function statusView(
  runningSince: string | null,
  health: Health | undefined,
  state: InstanceState,
): InstanceView['health_status'] | undefined {
  if (state === 'Created' || state === 'Initializing') return statusOf(noHealth(''))
  if (runningSince === null) return undefined
  return statusOf(health?.run === runningSince ? health : noHealth(runningSince))
}

function statusOf(health: Health): NonNullable<InstanceView['health_status']> {
  return {
    status: health.status,
    consecutive_successes: health.successes,
    consecutive_failures: health.failures,
    last_checked_at: timeOf(health.lastCheckedMs),
    last_success_at: timeOf(health.lastSuccessMs),
    last_failure_at: timeOf(health.lastFailureMs),
    last_error: health.lastError,
  }
}

function timeOf(ms: number | null): string | null {
  return ms === null ? null : new Date(ms).toISOString()
}

function checkView({ probe: asked, ...check }: HealthCheck): NonNullable<InstanceView['health_check']> {
  return {
    type: asked.type,
    ...probeView(asked),
    interval: formatDuration(check.intervalMs),
    timeout: formatDuration(check.timeoutMs),
    start_period: formatDuration(check.startPeriodMs),
    failure_threshold: check.failureThreshold,
    success_threshold: check.successThreshold,
  }
}

function probeView(asked: Probe): Pick<HealthCheckBody, 'http' | 'tcp' | 'exec'> {
  switch (asked.type) {
    case 'http':
      return { http: { port: asked.port, path: asked.path, scheme: asked.scheme, expected_status: asked.expectedStatus } }
    case 'tcp':
      return { tcp: { port: asked.port } }
    case 'exec':
      return { exec: { command: [...asked.command], ...(asked.workingDir === null ? {} : { working_dir: asked.workingDir }) } }
    default:
      return asked satisfies never
  }
}
