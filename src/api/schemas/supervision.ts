// What watches over an instance, on the wire: its restart policy, its health check, and what became of them.

import { z } from 'zod'
import { parseDuration } from '../units.ts'
import { arguments_, duration, port, timestamp } from './common.ts'

export const restartPolicy = z
  .object({
    policy: z.enum(['never', 'always', 'on_failure']).default('never').meta({
      description: '`always`: after any end of the program; `on_failure`: after an exit code other than 0, a signal, or an unknown end.',
    }),
    backoff: duration('invalid_restart_policy').default('5s').meta({ description: 'Before each attempt.' }),
    max_attempts: z.int().min(0).default(0).meta({ description: 'Attempts in a row; 0: no limit.' }),
    stable_after: duration('invalid_restart_policy')
      .default('10m')
      .meta({ description: 'Once it has run for so long, attempts are counted from 0 again.' }),
  })
  .meta({ id: 'RestartPolicy', description: 'Whether an instance is started again by itself, from its disks.' })

export type RestartPolicyBody = z.output<typeof restartPolicy>

export const restartStatus = z
  .object({
    attempts: z.int().meta({ description: 'In a row, until now.' }),
    last_attempt_at: timestamp.nullable(),
    next_attempt_at: timestamp.nullable().meta({ description: 'null: none is planned.' }),
    blocked_reason: z
      .enum(['manual_stop', 'max_attempts_exceeded'])
      .nullable()
      .meta({ description: 'Why there will be no more attempts.' }),
    last_reason: z.literal('health_check_failed').nullable(),
  })
  .meta({ id: 'RestartStatus' })

const httpCheck = z.object({
  port,
  path: z
    .string()
    .regex(/^\/[\x21-\x7e]*$/, 'a path begins with / and has no spaces')
    .max(2048)
    .default('/'),
  scheme: z.enum(['http', 'https']).default('http').meta({ description: 'With https any certificate will do.' }),
  expected_status: z.int().min(100).max(599).default(200),
})

const tcpCheck = z.object({ port })

const execCheck = z.object({
  command: arguments_.min(1).meta({ description: 'Passes with exit code 0.' }),
  working_dir: z
    .string()
    .regex(/^[^\0]*$/, 'a path has no zero bytes')
    .optional()
    .meta({ description: "By default the program's." }),
})

/** A duration of no length would be a check without rest, or one that can't pass. */
const someTime = duration('invalid_health_check').refine((text) => /[1-9]/.test(text), {
  error: 'must be longer than 0',
  params: { code: 'invalid_health_check' },
})

/** The guest agent's bound, in milliseconds. */
const LONGEST_TIMEOUT_MS = 3_600_000

const checkTypes = ['http', 'tcp', 'exec'] as const

export const healthCheck = z
  .object({
    type: z
      .enum(['none', ...checkTypes])
      .optional()
      .meta({ description: 'By default what is described; `none` switches checks off.' }),
    http: httpCheck.optional().meta({ description: "A request to a port of the guest's network address, without following redirections." }),
    tcp: tcpCheck.optional().meta({ description: "A connection to a port of the guest's network address." }),
    exec: execCheck.optional().meta({ description: 'A command in the guest.' }),
    interval: someTime.default('10s').meta({ description: 'From the end of a check to the next.' }),
    timeout: someTime.default('2s').meta({ description: 'Of each check.' }),
    start_period: duration('invalid_health_check').default('30s').meta({ description: 'For so long failures make nothing unhealthy.' }),
    failure_threshold: z.int().min(1).default(3).meta({ description: 'Failures in a row that make it unhealthy.' }),
    success_threshold: z.int().min(1).default(1).meta({ description: 'Successes in a row that make it healthy.' }),
  })
  .superRefine((check, context) => {
    const described = checkTypes.filter((type) => check[type] !== undefined)
    const refuse = (message: string): void => context.addIssue({ code: 'custom', message, params: { code: 'invalid_health_check' } })
    if ((parseDuration(check.timeout) ?? 0) > LONGEST_TIMEOUT_MS) refuse('a check can take an hour at most')
    if (check.type === 'none') return
    if (check.type === undefined && described.length > 1) refuse(`give one of ${described.join(' and ')}`)
    if (check.type === undefined || (described.length === 1 && described[0] === check.type)) return
    refuse(`type ${check.type} needs ${check.type} to say what is checked, and nothing else`)
  })
  .meta({ id: 'HealthCheck', description: 'How to find out whether the program of a Running instance does its work.' })

export type HealthCheckBody = z.output<typeof healthCheck>

export const healthStatus = z
  .object({
    status: z
      .enum(['disabled', 'starting', 'healthy', 'unhealthy', 'unknown'])
      .meta({ description: '`unknown`: it does not run, or can not be checked.' }),
    consecutive_successes: z.int(),
    consecutive_failures: z.int(),
    last_checked_at: timestamp.nullable().optional(),
    last_success_at: timestamp.nullable().optional(),
    last_failure_at: timestamp.nullable().optional(),
    last_error: z.string().nullable().optional().meta({ description: 'Of the last check that failed, cut short.' }),
  })
  .meta({ id: 'InstanceHealthStatus' })
