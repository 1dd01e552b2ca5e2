// Standby by itself on the wire: the policy of an instance, and what is known of it.

import { z } from 'zod'
import { parseDuration } from '../units.ts'
import { duration, port, timestamp } from './common.ts'

const code = 'invalid_auto_standby'

const network = z
  .string()
  .refine((text) => z.union([z.cidrv4(), z.cidrv6()]).safeParse(text).success, {
    error: 'a network is an address and the length of its prefix, such as 10.0.0.0/8',
    params: { code },
  })
  .meta({ examples: ['10.0.0.0/8'] })

/** More than anybody has reason to name. */
const MOST_IGNORED = 256

export const autoStandby = z
  .object({
    enabled: z.boolean().default(false),
    idle_timeout: duration(code)
      .optional()
      .meta({ description: 'For how long nobody may have used it, such as `10m`. Needed if it is enabled.' }),
    ignore_source_cidrs: z
      .array(network)
      .max(MOST_IGNORED)
      .default([])
      .meta({ description: 'Connections from these networks do not count.' }),
    ignore_destination_ports: z
      .array(port)
      .max(MOST_IGNORED)
      .default([])
      .meta({ description: 'Connections to these ports of the guest do not count.' }),
  })
  .refine((policy) => !policy.enabled || (parseDuration(policy.idle_timeout ?? '0') ?? 0) > 0, {
    error: 'an idle_timeout longer than 0 is needed',
    path: ['idle_timeout'],
    params: { code },
  })
  .meta({ id: 'AutoStandbyPolicy', description: 'Whether a Running instance that nobody uses goes to standby by itself.' })

export type AutoStandbyBody = z.output<typeof autoStandby>

export const autoStandbyStatus = z
  .object({
    supported: z.boolean(),
    configured: z.boolean(),
    enabled: z.boolean(),
    eligible: z.boolean(),
    status: z.enum([
      ...(['unsupported', 'disabled', 'ineligible', 'active', 'idle_countdown'] as const),
      ...(['ready_for_standby', 'standby_requested', 'error'] as const),
    ]),
    reason: z.enum([
      ...(['unsupported_platform', 'policy_missing', 'policy_disabled', 'instance_not_running', 'network_disabled', 'missing_ip'] as const),
      ...(['has_vgpu', 'active_inbound_connections', 'idle_timeout_not_elapsed', 'observer_error', 'ready_for_standby'] as const),
    ]),
    active_inbound_connections: z.int(),
    tracking_mode: z.string(),
    idle_timeout: z.string().nullable().optional(),
    idle_since: timestamp.nullable().optional(),
    last_inbound_activity_at: timestamp.nullable().optional(),
    next_standby_at: timestamp.nullable().optional(),
    countdown_remaining: z.string().nullable().optional(),
    hold_until: timestamp.nullable().optional(),
  })
  .meta({ id: 'AutoStandbyStatus', description: 'Whether and when an idle instance is put on standby by itself.' })

export type AutoStandbyStatus = z.infer<typeof autoStandbyStatus>
