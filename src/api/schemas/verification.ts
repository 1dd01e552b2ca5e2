// The verification of snapshots on the wire: everything is read and compared with the digests that were taken when the snapshot was.

import { z } from 'zod'

const verifiedFile = z.object({
  name: z.string().meta({ description: 'Path below the directory of the snapshot.' }),
  status: z.enum(['ok', 'bad', 'missing', 'not_hashed']).meta({
    description: '`not_hashed`: there was no digest to compare with yet; it was taken now, if the file is the one that was saved.',
  }),
  message: z.string().optional().meta({ description: 'What is wrong with it.' }),
  size_bytes: z.int().optional(),
  read_bytes: z.int().optional().meta({ description: 'Data that was read; holes are none.' }),
})

export type VerifiedFile = z.infer<typeof verifiedFile>

export const snapshotVerification = z
  .object({
    snapshot_id: z.string(),
    status: z.enum(['ok', 'bad', 'incomplete']).meta({
      description: '`bad`: a file is bad or missing; `incomplete`: none is, but some had no digest yet.',
    }),
    ms: z.int().meta({ description: 'How long it took, in milliseconds.' }),
    read_bytes: z.int(),
    files: z.array(verifiedFile),
  })
  .meta({ id: 'SnapshotVerification', description: 'What a verification found of each file of a snapshot.' })

export type SnapshotVerification = z.infer<typeof snapshotVerification>

const progressEvent = z.object({
  type: z.literal('progress'),
  snapshot_id: z.string(),
  file: z.string(),
  done_bytes: z.int(),
  total_bytes: z.int().meta({ description: 'Of the whole snapshot; an estimate.' }),
})

export const verifyEvent = z
  .discriminatedUnion('type', [progressEvent, z.object({ type: z.literal('result'), ...snapshotVerification.shape })])
  .meta({ id: 'VerifyEvent', description: 'One piece of progress of a verification, or what it found of a snapshot.' })

export type VerifyEvent = z.infer<typeof verifyEvent>
