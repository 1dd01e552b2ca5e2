// Health and capabilities on the wire.

import { z } from 'zod'

export const health = z.object({ status: z.literal('ok') }).meta({ id: 'Health' })

const runtime = z.object({
  name: z.string(),
  available: z.boolean().meta({ description: 'Whether an instance of it can be started on this host now.' }),
  features: z.array(z.string()).meta({ description: 'What it can do where it is available; `jail`: its machines run in jails.' }),
  version: z.string().optional().meta({ description: 'Of the program that new machines start on; absent where there is none that runs.' }),
  reason: z.string().optional().meta({ description: 'Why it is not available, and what to do about it.' }),
})

export const capabilities = z
  .object({
    server: z.object({ version: z.string(), api_version: z.string() }),
    host: z.object({ os: z.string(), arch: z.string() }),
    default_runtime: z.object({ name: z.string(), available: z.boolean() }),
    runtimes: z.array(runtime).meta({ description: 'Sorted by name.' }),
    features: z.array(z.string()),
    images: z.object({ default_platform: z.string(), platforms: z.array(z.string()) }),
    network: z.object({
      model: z.enum(['bridge', 'nat']),
      guest_to_guest: z.boolean(),
      gateway: z.string().optional().meta({
        description: "The host's address for guests that have a device of the host; absent where the usual network is that of the VMM.",
      }),
      subnet: z.string().optional().meta({ description: 'Addresses of such guests.' }),
    }),
  })
  .meta({ id: 'Capabilities', description: 'What this server and host can do.' })

export type Capabilities = z.infer<typeof capabilities>
