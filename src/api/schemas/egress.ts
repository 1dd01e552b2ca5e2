// What a guest may do to get out, as it is asked for and shown.

import { z } from 'zod'

/** What guests whose way out is the host's proxy may not do directly: any TCP, or that to ports 80 and 443. */
export const egressModes = ['all', 'http_https_only'] as const
export type EgressMode = (typeof egressModes)[number]

const mode = z.enum(egressModes)

export const egressRequest = z
  .object({
    enabled: z.boolean().default(false),
    enforcement: z
      .object({
        mode: mode.default('all').meta({
          description: '`all`: new TCP connections to anywhere but the proxy are rejected; `http_https_only`: those to ports 80 and 443.',
        }),
      })
      .optional(),
  })
  .meta({
    description:
      'Has the guest go out by a proxy of the host alone, which its programs are told by `http_proxy` and the like. Needs a tap device: 501 where none can be had, or `network.mode` is `user`.',
  })

/** Shown where it is enabled. */
export const egressView = z.object({ enabled: z.literal(true), enforcement: z.object({ mode }) })
