// What the host has and gives away, on the wire, as the official client knows it. Described so that the API's description is whole.

import { z } from 'zod'
import { duration, hypervisorName, timestamp } from './common.ts'

const status = z
  .object({
    type: z.string(),
    capacity: z.number(),
    effective_limit: z.number().meta({ description: 'Capacity, times how often it may be promised.' }),
    allocated: z
      .number()
      .meta({ description: 'What is promised: processors and memory of instances whose machine is there, disks of all.' }),
    available: z.number().meta({ description: 'What may still be promised; 0 where more is promised than that.' }),
    oversub_ratio: z.number(),
    source: z
      .string()
      .optional()
      .meta({ description: '`detected` or `configured`; absent where nobody knows the capacity, which is 0 then.' }),
  })
  .meta({ id: 'ResourceStatus', description: 'Bytes, bytes per second, or virtual CPUs.' })

const allocation = z.object({
  instance_id: z.string().optional(),
  instance_name: z.string().optional(),
  cpu: z.int().optional().meta({ description: 'Virtual CPUs; 0 while no machine of its runs.' }),
  memory_bytes: z.int().optional().meta({ description: 'As `cpu`.' }),
  disk_bytes: z.int().optional().meta({ description: 'Its own disk and the volumes that it attaches, at their full size.' }),
  network_download_bps: z.int().optional().meta({ description: 'What it may receive at most, in bytes a second; absent: no limit.' }),
  network_upload_bps: z.int().optional().meta({ description: 'What it may send at most; as `network_download_bps`.' }),
  disk_io_bps: z.int().optional().meta({ description: 'What its disks together may read and write at most; as `network_download_bps`.' }),
})

const gpu = z.object({
  mode: z.enum(['vgpu', 'passthrough']),
  total_slots: z.int(),
  used_slots: z.int(),
  profiles: z.array(z.object({ name: z.string(), framebuffer_mb: z.int(), available: z.int() })).optional(),
  devices: z.array(z.object({ name: z.string(), available: z.boolean() })).optional(),
})

export const hostResources = z
  .object({
    cpu: status,
    memory: status,
    disk: status,
    network: status,
    disk_io: status.optional(),
    allocations: z.array(allocation),
    disk_breakdown: z
      .object({
        images_bytes: z.int().optional(),
        oci_cache_bytes: z.int().optional(),
        volumes_bytes: z.int().optional(),
        overlays_bytes: z.int().optional(),
      })
      .optional(),
    gpu: gpu.nullable().optional(),
  })
  .meta({ id: 'Resources', description: 'What the host has, and to whom it is promised.' })

export type HostResources = z.infer<typeof hostResources>

export const reclaimMemoryBody = z
  .object({
    reclaim_bytes: z.int().min(0).meta({
      description: 'What all guests together shall give back, in place of what they were asked for before; 0: all of it is theirs again.',
    }),
    dry_run: z.boolean().default(false).meta({ description: 'Only says what would be asked of whom.' }),
    hold_for: duration('invalid_request')
      .optional()
      .meta({ description: 'Until it is given back, such as `10m`: at most `1h`, by default `5m`.' }),
    reason: z.string().max(256).optional().meta({ description: "For the server's log and the events of the instances." }),
  })
  .meta({ id: 'ReclaimMemory' })

export type ReclaimMemoryBody = z.output<typeof reclaimMemoryBody>

const reclaimAction = z.object({
  instance_id: z.string(),
  instance_name: z.string(),
  hypervisor: hypervisorName,
  assigned_memory_bytes: z.int(),
  protected_floor_bytes: z.int(),
  previous_target_guest_memory_bytes: z.int(),
  planned_target_guest_memory_bytes: z.int(),
  target_guest_memory_bytes: z.int(),
  applied_reclaim_bytes: z.int().meta({ description: 'What it has given back by the time of the answer.' }),
  status: z.string().meta({
    description:
      '`applied`, `pending`: asked for, and not all given when the answer was made; `unchanged`, `planned` (with dry_run), `unsupported` or `error`, which say why in `error`.',
  }),
  error: z.string().optional(),
})

export const reclaimedMemory = z
  .object({
    requested_reclaim_bytes: z.int(),
    planned_reclaim_bytes: z.int(),
    applied_reclaim_bytes: z.int(),
    host_available_bytes: z.int(),
    host_pressure_state: z.enum(['healthy', 'pressure']),
    hold_until: timestamp.optional(),
    actions: z.array(reclaimAction),
  })
  .meta({ id: 'ReclaimedMemory', description: 'What each Running instance was asked for and gave back.' })

export type ReclaimedMemory = z.output<typeof reclaimedMemory>
