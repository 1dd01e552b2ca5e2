// A snapshot's record on disk (`snapshot.json`). Immutable once committed; the payload lies beside it in `guest/`.

import { z } from 'zod'
import { hypervisorName, tags, timestamp } from '../api/schemas/common.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'
import { instanceFormat } from '../instances/index.ts'

const snapshotRecord = z
  .object({
    version: z.literal(3),
    id: fileWord,
    /** Empty: unnamed. */
    name: z.string(),
    kind: z.enum(['Standby', 'Stopped']),
    tags: tags.readonly(),
    /** Subject of the token that asked for it, or the owner of the instance whose schedule took it; null: not recorded. */
    owner: z.string().nullable(),
    /** Taken by the schedule of its source, which may delete it; tags can say so too, but anybody may write those. */
    scheduled: z.boolean(),
    sourceInstanceId: fileWord,
    sourceInstanceName: z.string(),
    sourceHypervisor: hypervisorName,
    createdAt: timestamp,
    /** Apparent size of the payload, in bytes. */
    sizeBytes: z.int(),
    /** What the payload takes on disk when it is not shared, in bytes. */
    allocatedBytes: z.int(),
    /** How long the source stood still, in milliseconds; 0 when it was not running. */
    pausedMs: z.number(),
    /** The source's record at the instant of the capture: everything that a new machine is made from. */
    instance: instanceFormat.embedded,
  })
  .readonly()

export const snapshotFormat = defineRecord({
  kind: 'snapshot record',
  version: 3,
  schema: snapshotRecord,
  steps: {
    // Before there were schedules.
    1: (record) => ({ ...record, scheduled: false }),
    // Before owners were recorded.
    2: (record) => ({ ...record, owner: null }),
  },
})

export type SnapshotRecord = z.infer<typeof snapshotRecord>
