// What may be asked of instances: bodies and queries. Fields that ask for something the server cannot do yet are here so that it can say so
// (server/unsupported.ts) instead of ignoring them.

import { z } from 'zod'
import { targetStates } from '../actions.ts'
import {
  arguments_,
  bandwidth,
  duration,
  environment,
  expiresAt,
  forkEnvironment,
  hypervisorName,
  imageReference,
  inheritSecrets,
  platform,
  port,
  queryFlag,
  rate,
  resourceName,
  secretEnvironment,
  size,
  tagFilter,
  tags,
} from './common.ts'
import { autoStandby } from './auto-standby.ts'
import { egressRequest } from './egress.ts'
import { instanceState, volumeMount } from './instance.ts'
import { secretFiles } from './secret-files.ts'
import { snapshotPolicy } from './snapshot-policy.ts'
import { healthCheck, restartPolicy } from './supervision.ts'

const unsupported = 'Not supported yet: 501 unless absent, empty or disabled.'
const limit =
  'as `100Mbps` or `12.5MB/s`; 0: no limit. Absent or empty: on a tap device its share of `capacity.network` by its processors, where that is set, and no limit else. Needs a tap device: 501 where none can be had, or `network.mode` is `user`.'

const portRequest = z.object({
  guest_port: port,
  host_port: z.int().min(0).max(65_535).default(0).meta({ description: '0: a free one.' }),
  protocol: z.enum(['tcp', 'udp']).default('tcp'),
  host_address: z
    .union([z.ipv4(), z.ipv6()])
    .default('127.0.0.1')
    .meta({ description: 'Address of the host to listen on; 0.0.0.0 for all.' }),
})

const networkRequest = z.object({
  enabled: z.boolean().default(true),
  ports: z.array(portRequest).max(256).default([]).meta({ description: 'Ports to publish on the host.' }),
  bandwidth_download: bandwidth('invalid_bandwidth_download')
    .optional()
    .meta({ description: `What it may receive, ${limit}` }),
  bandwidth_upload: bandwidth('invalid_bandwidth_upload')
    .optional()
    .meta({ description: `What it may send, ${limit}` }),
  egress: egressRequest.optional(),
})

const expiry = {
  ttl: duration('invalid_ttl')
    .optional()
    .meta({ description: 'Lifetime from now on, such as `30m`; `0s`: none. Not together with expires_at.' }),
  expires_at: expiresAt.optional().meta({ description: 'Time in the future at which it is deleted. Not together with ttl.' }),
}

const oneExpiry = (body: { readonly ttl?: string | undefined; readonly expires_at?: string | undefined }): boolean =>
  body.ttl === undefined || body.expires_at === undefined
const oneExpiryError = { error: 'give ttl or expires_at, not both', path: ['expires_at'] }

export const createInstanceBody = z
  .object({
    name: resourceName,
    image: imageReference,
    size: size('invalid_size').default('1GB').meta({ description: 'Memory.' }),
    hotplug_size: size('invalid_hotplug_size').optional().meta({
      description:
        'Memory that may be added while it runs, by `size` of an update, where the hypervisor can (`hotplug-memory` in GET /capabilities); nothing is reserved for it. Others pass it over.',
    }),
    overlay_size: size('invalid_overlay_size').default('10GB').meta({ description: 'Writable disk; takes space as it is used.' }),
    vcpus: z.int().min(1).default(2),
    env: environment.default({}),
    secret_env: secretEnvironment,
    secret_files: secretFiles,
    inherit_secrets: inheritSecrets,
    tags: tags.default({}),
    entrypoint: arguments_.optional().meta({ description: "Instead of the image's." }),
    cmd: arguments_.optional().meta({ description: "Instead of the image's." }),
    platform: platform.optional(),
    hypervisor: hypervisorName.optional().meta({ description: "By default the server's default." }),
    network: networkRequest.optional(),
    volumes: z.array(volumeMount).default([]),
    skip_guest_agent: z.boolean().default(false).meta({
      description: 'Running does not wait for the agent; no exec, copy or stat. Health checks are made from the host: none by a command.',
    }),
    skip_kernel_headers: z.boolean().optional().meta({ description: 'Accepted; kernel headers are never installed.' }),
    ...expiry,
    disk_io_bps: rate.optional().meta({
      description:
        'What all of its disks together may read and write, such as `100MB/s`; 0: no limit. Absent or empty: its share of `capacity.disk_io` by its processors, where that is set and its hypervisor can limit disks, and no limit else.',
    }),
    credentials: z.record(z.string(), z.unknown()).optional().meta({ description: unsupported }),
    devices: z.array(z.string()).optional().meta({ description: unsupported }),
    gpu: z.looseObject({ profile: z.string().optional() }).optional().meta({ description: unsupported }),
    auto_standby: autoStandby.optional(),
    health_check: healthCheck.optional(),
    restart_policy: restartPolicy.optional(),
    snapshot_policy: snapshotPolicy.optional(),
  })
  .refine(oneExpiry, oneExpiryError)
  .meta({ id: 'CreateInstance' })

/** After defaults. */
export type CreateInstanceBody = z.output<typeof createInstanceBody>

export const updateInstanceBody = z
  .object({
    ...expiry,
    size: size('invalid_size').optional().meta({
      description:
        'Memory. Of a Stopped instance any, for its next start. Of a Running one more, where the hypervisor can (`hotplug-memory` in GET /capabilities): up to what its `hotplug_size` left room for.',
    }),
    vcpus: z.int().min(1).optional().meta({
      description: 'Of a Stopped instance any number, for its next start. Of a Running one more, where the hypervisor can (`hotplug-cpu`).',
    }),
    overlay_size: size('invalid_overlay_size').optional().meta({
      description: 'More than the writable disk has, of a Stopped instance, or of a Running one where the hypervisor can (`disk-resize`).',
    }),
    env: environment.optional().meta({
      description:
        'Variables to add or to give other values; those not named stay. For the next start of the program: one that runs keeps its own.',
    }),
    secret_env: secretEnvironment,
    secret_files: secretFiles,
    inherit_secrets: inheritSecrets,
    auto_standby: autoStandby.optional(),
    health_check: healthCheck.optional(),
    restart_policy: restartPolicy.optional(),
  })
  .refine(oneExpiry, oneExpiryError)
  .meta({ id: 'UpdateInstance' })

export type UpdateInstanceBody = z.output<typeof updateInstanceBody>

export const startInstanceBody = z
  .object({
    entrypoint: arguments_.optional().meta({ description: 'From now on; absent: as before.' }),
    cmd: arguments_.optional().meta({ description: 'From now on; absent: as before.' }),
  })
  .meta({ id: 'StartInstance' })

export type StartInstanceBody = z.output<typeof startInstanceBody>

export const forkInstanceBody = z
  .object({
    name: resourceName,
    from_running: z.boolean().default(false).meta({ description: 'Needed to fork a Running instance, which stands still for a moment.' }),
    target_state: z.enum(targetStates).optional().meta({ description: "By default the source's state." }),
    target_hypervisor: hypervisorName.optional().meta({ description: 'Another hypervisor; from Stopped instances only.' }),
    ...forkEnvironment,
  })
  .meta({ id: 'ForkInstance' })

export type ForkInstanceBody = z.output<typeof forkInstanceBody>

export const listInstancesQuery = z.object({ state: instanceState.optional(), tags: tagFilter })

export type InstanceFilter = z.output<typeof listInstancesQuery>

export const deleteInstanceQuery = z.object({
  graceful_shutdown: queryFlag.default(false).meta({ description: 'Gives the guest a moment to shut down first.' }),
})

export const waitQuery = z.object({
  state: instanceState.exclude(['Unknown']),
  timeout: duration('invalid_timeout').default('60s').meta({ description: 'At most 5m.' }),
})

export const logsQuery = z.object({
  tail: z.coerce.number().pipe(z.int().min(0)).default(100).meta({ type: 'integer', description: 'Lines of the past.' }),
  follow: queryFlag.default(false).meta({ description: 'Goes on with what is written.' }),
  source: z
    .enum(['app', 'vmm', 'hypeman'])
    .default('app')
    .meta({ description: 'Output of the program, of the VMM and kernel, or the event log.' }),
})

export type LogsQuery = z.output<typeof logsQuery>

export const eventsQuery = z.object({
  tail: z.coerce.number().pipe(z.int().min(0)).default(1000).meta({ type: 'integer', description: 'Events of the past.' }),
  follow: queryFlag.default(false),
})

export type EventsQuery = z.output<typeof eventsQuery>

export const statQuery = z.object({
  path: z.string().min(1),
  follow_links: queryFlag.default(false),
})

export const instanceParams = z.object({ id: z.string().min(1).meta({ description: 'Id, name, or a unique prefix of the id.' }) })
