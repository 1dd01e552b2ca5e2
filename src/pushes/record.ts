// A push's record on disk (`pushes/<id>.json`): what goes where, and how it ended. Never the credentials: only that there were some. Whether it is
// queued or under way is no matter of the disk.

import { z } from 'zod'
import { timestamp } from '../api/schemas/common.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'

const pushRecord = z
  .object({
    version: z.literal(1),
    id: fileWord,
    /** Both in normal form. */
    image: z.string().min(1),
    target: z.string().min(1),
    digest: z.string().min(1),
    insecure: z.boolean(),
    /** Credentials came with the request. */
    borrowed: z.boolean(),
    status: z.enum(['unfinished', 'pushed', 'failed']),
    createdAt: timestamp,
    completedAt: timestamp.nullable(),
    layers: z.int().min(0).nullable(),
    /** Of the layers as they are sent. */
    bytes: z.int().min(0).nullable(),
    error: z.string().nullable(),
  })
  .readonly()

export const pushFormat = defineRecord({ kind: 'push', version: 1, schema: pushRecord })

export type PushRecord = z.infer<typeof pushRecord>
