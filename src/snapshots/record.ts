// A snapshot's record on disk (`snapshot.json`). Immutable once committed; the payload lies beside it in `guest/`.

import { z } from 'zod'
import { hypervisorName } from '../api/schemas/common.ts'
import { instanceRecord } from '../instances/index.ts'

export const snapshotRecord = z
  .object({
    version: z.literal(1),
    id: z.string(),
    /** Empty: unnamed. */
    name: z.string(),
    kind: z.enum(['Standby', 'Stopped']),
    tags: z.record(z.string(), z.string()).readonly(),
    sourceInstanceId: z.string(),
    sourceInstanceName: z.string(),
    sourceHypervisor: hypervisorName,
    createdAt: z.string(),
    /** Apparent size of the payload, in bytes. */
    sizeBytes: z.int(),
    /** What the payload takes on disk when it is not shared, in bytes. */
    allocatedBytes: z.int(),
    /** How long the source stood still, in milliseconds; 0 when it was not running. */
    pausedMs: z.number(),
    /** The source's record at the instant of the capture: everything that a new machine is made from. */
    instance: instanceRecord,
  })
  .readonly()

export type SnapshotRecord = z.infer<typeof snapshotRecord>
