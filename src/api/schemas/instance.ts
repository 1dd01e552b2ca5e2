// Instances on the wire: what is answered (InstanceView) and what goes with it. What may be asked for is in instance-requests.ts.

import { z } from 'zod'
import { instanceStates } from '../actions.ts'
import { autoStandby } from './auto-standby.ts'
import { environment, hypervisorName, port, size, tags, timestamp } from './common.ts'
import { egressView } from './egress.ts'
import { snapshotPolicy, standbyCompression } from './snapshot-policy.ts'
import { healthCheck, healthStatus, restartPolicy, restartStatus } from './supervision.ts'

export const instanceState = z.enum(instanceStates)

/** What an instance may write over a volume that it only reads. */
export const overlayOfVolume = {
  overlay: z.boolean().optional().meta({
    description:
      'With readonly: what the guest writes goes into a layer of its own, which its snapshots and forks have too; the volume stays as it is.',
  }),
  overlay_size: size('invalid_overlay_size')
    .optional()
    .meta({ description: 'With overlay: how much the layer holds. Takes space as it is used.' }),
}

export const volumeMount = z
  .object({
    volume_id: z.string().min(1).meta({ description: 'Id or name of the volume.' }),
    mount_path: z.string().min(1).meta({ description: 'Absolute path in the guest.' }),
    readonly: z.boolean().optional().meta({ description: 'By default false. Many may read a volume that nobody writes.' }),
    ...overlayOfVolume,
  })
  .meta({ id: 'VolumeMount' })

/** Published ports are an addition of ours. */
const publishedPort = z
  .object({
    guest_port: port,
    host_port: port,
    protocol: z.enum(['tcp', 'udp']),
    host_address: z.string().meta({ description: 'Address of the host that listens.' }),
  })
  .meta({ id: 'PublishedPort' })

const network = z.object({
  enabled: z.boolean().optional(),
  name: z.string().optional(),
  ip: z.string().nullable().optional().meta({ description: 'Its address; null: it has no network, or gets an address when it starts.' }),
  mac: z.string().nullable().optional(),
  bandwidth_download: z.string().optional().meta({ description: 'What it may receive, such as `16Mbps`. Absent: no limit.' }),
  bandwidth_upload: z.string().optional().meta({ description: 'What it may send. Absent: no limit.' }),
  egress: egressView.optional().meta({ description: "With it, its only way out is the host's proxy. Absent: it goes out directly." }),
  ports: z.array(publishedPort).optional().meta({ description: 'Ports of the host that lead into the guest.' }),
})

export const instance = z
  .object({
    id: z.string(),
    name: z.string(),
    image: z.string(),
    state: instanceState,
    created_at: timestamp,
    expires_at: timestamp.nullable().meta({ description: 'When it is deleted by itself; null: never.' }),
    started_at: timestamp.nullable().optional(),
    stopped_at: timestamp.nullable().optional(),
    state_error: z.string().nullable().optional().meta({ description: 'With state Unknown: why.' }),
    exit_code: z.int().nullable().optional().meta({ description: 'Of the program, once it has ended.' }),
    exit_message: z.string().optional(),
    size: z.string().optional().meta({ description: 'Memory.' }),
    hotplug_size: z.string().optional().meta({ description: 'Memory that may still be added while it runs, where the hypervisor can.' }),
    overlay_size: z.string().optional().meta({ description: 'Writable disk.' }),
    vcpus: z.int().optional(),
    disk_io_bps: z.string().optional().meta({ description: 'What its disks together may read and write in a second. Absent: no limit.' }),
    env: environment.optional(),
    secret_env_names: z.array(z.string()).optional().meta({ description: 'Its secret environment variables; values are never shown.' }),
    secret_files: z.array(z.string()).optional().meta({ description: 'Names of its secret files; their contents are never shown.' }),
    owner: z.string().optional().meta({ description: 'Subject of the token that made it; absent if that was not recorded.' }),
    tags: tags.optional(),
    volumes: z.array(volumeMount).optional(),
    network: network.optional(),
    hypervisor: hypervisorName.optional(),
    platform: z.string().optional(),
    has_snapshot: z.boolean().optional().meta({ description: 'Its memory is on disk: true in Standby.' }),
    snapshot_policy: snapshotPolicy.optional(),
    standby_compression: standbyCompression.optional().meta({ description: 'In Standby, of memory that is to be compressed.' }),
    memory_reclaim: z
      .object({ asked_bytes: z.int(), hold_until: timestamp })
      .optional()
      .meta({ description: 'What the guest was asked to give back (POST /resources/memory/reclaim), and until when. Absent: nothing.' }),
    auto_standby: autoStandby.optional(),
    health_check: healthCheck.optional(),
    health_status: healthStatus.optional(),
    restart_policy: restartPolicy.optional().meta({ description: 'Absent: never.' }),
    restart_status: restartStatus.optional().meta({ description: 'With a restart policy.' }),
    current_phase: z.string().optional().meta({
      description:
        '`created`, `initializing`, `running`, `standby` or `stopped`; moments inside of operations belong to the one around them.',
    }),
    current_phase_since: timestamp.optional(),
    phase_durations_ms: z
      .record(z.string(), z.int())
      .optional()
      .meta({ description: 'By phase, over its whole life until now. A fork begins anew; a restore in place goes on.' }),
    unsafe_fork: z.string().optional().meta({
      description:
        'Why it runs without having taken an identity of its own after a restore or fork, which only skip_guest_agent allows: it may repeat random numbers, ids and connections of its source. Absent: it has it.',
    }),
    forked_from: z
      .object({ snapshot_id: z.string().optional(), instance_id: z.string().optional() })
      .optional()
      .meta({ description: 'Lineage: the snapshot and the instance that a fork was made from.' }),
  })
  .meta({ id: 'Instance', description: 'A virtual machine.' })

export type InstanceView = z.infer<typeof instance>

export const pathInfo = z
  .object({
    exists: z.boolean(),
    is_dir: z.boolean().optional(),
    is_file: z.boolean().optional(),
    is_symlink: z.boolean().optional(),
    link_target: z.string().nullable().optional(),
    mode: z.int().optional().meta({ description: 'Permission bits.' }),
    size: z.int().optional(),
    error: z.string().nullable().optional().meta({ description: 'Why it could not be looked at, if not for being absent.' }),
  })
  .meta({ id: 'PathInfo' })

export type PathInfo = z.infer<typeof pathInfo>

export const instanceStats = z
  .object({
    instance_id: z.string(),
    instance_name: z.string(),
    cpu_seconds: z.number(),
    memory_rss_bytes: z.int(),
    /** Of the VMM, what no other process has: what would be free without it. */
    memory_private_bytes: z.int().optional(),
    /** Of the VMM, what other processes have, too: the memory file that forks map, and QEMU's own program. */
    memory_shared_bytes: z.int().optional(),
    /** Private memory, and of what is shared an equal part for each process that has it. */
    memory_pss_bytes: z.int().optional(),
    memory_vms_bytes: z.int(),
    network_rx_bytes: z.int().meta({
      description:
        "Where the VMM counts (Cloud Hypervisor): since its process began. Elsewhere by the guest's own count, since it booted, which a fork has from its source.",
    }),
    network_tx_bytes: z.int(),
    disk_read_bytes: z
      .int()
      .optional()
      .meta({ description: 'From all disks, since the VMM process began; absent where the VMM does not count it.' }),
    disk_written_bytes: z.int().optional(),
    allocated_vcpus: z.int(),
    allocated_memory_bytes: z.int(),
    memory_utilization_ratio: z.number().nullable().optional(),
  })
  .meta({ id: 'InstanceStats' })

export type InstanceStats = z.infer<typeof instanceStats>

export const waitResult = z
  .object({
    state: instanceState,
    timed_out: z.boolean(),
    state_error: z.string().nullable().optional(),
  })
  .meta({
    id: 'WaitForState',
    description: 'The state in the end; `timed_out` when it is not yet the one waited for and still may become it.',
  })

export type WaitResult = z.infer<typeof waitResult>
