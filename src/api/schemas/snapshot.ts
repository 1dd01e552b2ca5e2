// Snapshots on the wire: of one instance (`/instances/{id}/snapshots`) and all of them (`/snapshots`).

import { z } from 'zod'
import { targetStates } from '../actions.ts'
import { forkEnvironment, hypervisorName, resourceName, tagFilter, tags, timestamp } from './common.ts'
import { compression } from './compression.ts'

export const snapshotKind = z
  .enum(['Standby', 'Stopped'])
  .meta({ description: '`Standby` holds memory, devices and disks; `Stopped` holds disks and configuration.' })

export type SnapshotKind = z.infer<typeof snapshotKind>

export const snapshot = z
  .object({
    id: z.string(),
    name: z.string().nullable().optional().meta({ description: 'Unique among the snapshots of one instance.' }),
    kind: snapshotKind,
    created_at: timestamp,
    size_bytes: z.int().meta({ description: 'Apparent size of the payload; less when memory was compressed.' }),
    allocated_bytes: z.int().optional().meta({ description: 'What the payload takes on disk if it shares nothing.' }),
    paused_ms: z.number().optional().meta({
      description:
        'How long the machine stood still; 0 if it was not running. Its programs stand still a little longer: the event `programs-still` says how long.',
    }),
    source_instance_id: z.string(),
    source_instance_name: z.string(),
    source_hypervisor: hypervisorName,
    owner: z.string().optional().meta({ description: 'Subject of the token that asked for it; absent if that was not recorded.' }),
    scheduled: z.boolean().optional().meta({ description: 'True: taken by the schedule of its source, which may delete it.' }),
    tags: tags.optional(),
    compression: compression.optional().meta({ description: 'How its memory is to be compressed; absent if it is not to be.' }),
    compression_state: z
      .enum(['none', 'compressing', 'compressed', 'error'])
      .optional()
      .meta({ description: '`none` also if nothing of its memory could be compressed yet: `compression_note` says why.' }),
    compression_error: z
      .string()
      .nullable()
      .optional()
      .meta({ description: 'What failed, when the state is `error`; the snapshot is whole all the same.' }),
    compression_note: z
      .string()
      .optional()
      .meta({ description: 'What of its memory is not compressed, or takes room all the same, and why.' }),
    compressed_size_bytes: z.int().nullable().optional().meta({ description: 'Size of the memory files that are compressed, compressed.' }),
    uncompressed_size_bytes: z.int().nullable().optional().meta({ description: 'Apparent size of the same files, uncompressed.' }),
  })
  .meta({ id: 'Snapshot', description: 'An instant of an instance: immutable, and independent of it from then on.' })

export type SnapshotView = z.infer<typeof snapshot>

export const createSnapshotBody = z
  .object({
    kind: snapshotKind,
    name: z
      .union([z.literal(''), resourceName])
      .optional()
      .meta({ description: 'Empty or absent: unnamed.' }),
    tags: tags.optional(),
    compression: compression.optional().meta({
      description:
        "Compresses its memory, in the background after the answer. Absent: as the instance's `snapshot_policy` says, else as the server's setting does.",
    }),
  })
  .meta({ id: 'CreateSnapshot' })

export type CreateSnapshotBody = z.infer<typeof createSnapshotBody>

const target = {
  target_state: z
    .enum(targetStates)
    .optional()
    .meta({ description: 'By default `Running` from a Standby snapshot and `Stopped` from a Stopped one.' }),
  target_hypervisor: hypervisorName.optional().meta({ description: 'Another hypervisor; from Stopped snapshots only.' }),
}

export const restoreSnapshotBody = z.object(target).meta({ id: 'RestoreSnapshot' })

export type RestoreSnapshotBody = z.infer<typeof restoreSnapshotBody>

export const forkSnapshotBody = z.object({ name: resourceName, ...target, ...forkEnvironment }).meta({ id: 'ForkSnapshot' })

export type ForkSnapshotBody = z.infer<typeof forkSnapshotBody>

export const listSnapshotsQuery = z.object({
  source_instance_id: z.string().optional(),
  kind: snapshotKind.optional(),
  name: z.string().optional(),
  tags: tagFilter,
})

export type SnapshotFilter = z.infer<typeof listSnapshotsQuery>

export const snapshotParams = z.object({ snapshotId: z.string().min(1).meta({ description: 'Id, or a unique prefix of it.' }) })
