// How an instance's memory is compressed, on the wire: its policy, what one standby asks for beside it, and what became of it.

import { z } from 'zod'
import { duration, timestamp } from './common.ts'
import { compression, policyCompression } from './compression.ts'

export const snapshotPolicy = z
  .object({
    compression: policyCompression
      .optional()
      .meta({ description: 'Of its memory in standby, and in Standby snapshots that do not ask for something else.' }),
    standby_compression_delay: duration('invalid_snapshot_policy')
      .optional()
      .meta({ description: 'From a standby until its memory is compressed, such as `5m`; by default at once.' }),
  })
  .meta({ id: 'SnapshotPolicy', description: "How an instance's memory is compressed where a request does not say it." })

export type SnapshotPolicyBody = z.output<typeof snapshotPolicy>

export const standbyInstanceBody = z
  .object({
    compression: compression.optional().meta({
      description: "How its memory is compressed, in the background after the answer; by default as the instance's snapshot_policy says.",
    }),
    compression_delay: duration('invalid_compression_delay')
      .optional()
      .meta({ description: "Until that begins, such as `5m`; by default as the instance's snapshot_policy says." }),
  })
  .meta({ id: 'StandbyInstance' })

export type StandbyInstanceBody = z.output<typeof standbyInstanceBody>

export const standbyCompression = z
  .object({
    state: z.enum(['waiting', 'compressing', 'compressed', 'none', 'error']).meta({
      description: '`waiting`: for its time; `none`: nothing of it can be compressed now, and `note` says why.',
    }),
    algorithm: z.enum(['zstd', 'lz4']),
    level: z.int(),
    starts_at: timestamp.optional().meta({ description: 'While it is waiting.' }),
    error: z.string().optional().meta({ description: 'Why it failed last; the memory is there as it was.' }),
    note: z.string().optional().meta({ description: 'Why something is not compressed.' }),
    compressed_size_bytes: z.int().optional().meta({ description: 'Of what is compressed.' }),
    uncompressed_size_bytes: z.int().optional().meta({ description: 'Of the same, as it was before.' }),
  })
  .meta({ id: 'StandbyCompression', description: 'What became of the memory of an instance in Standby that is to be compressed.' })

export type StandbyCompressionView = z.infer<typeof standbyCompression>
