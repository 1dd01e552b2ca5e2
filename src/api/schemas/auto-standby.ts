// Standby by itself on the wire. The server does not do it yet, and says so in this shape.

import { z } from 'zod'
import { timestamp } from './common.ts'

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
