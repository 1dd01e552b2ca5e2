// How memory is compressed, on the wire: of snapshots, standby and policies.

import { z } from 'zod'

/** What is taken if no level is given. */
export const defaultLevels = { zstd: 1, lz4: 0 } as const

const ranges = { zstd: [1, 19], lz4: [0, 9] } as const

const fields = {
  enabled: z.boolean(),
  algorithm: z.enum(['zstd', 'lz4']).optional().meta({ description: 'By default `zstd`.' }),
  level: z.int().optional().meta({ description: '1 to 19 for `zstd`, by default 1; 0 to 9 for `lz4`, by default 0.' }),
}

/** `code` is answered for a level that the algorithm does not have. */
function withRange(code: 'invalid_snapshot_compression' | 'invalid_snapshot_policy', id: string): z.ZodObject<typeof fields> {
  return z
    .object(fields)
    .superRefine(({ enabled, algorithm = 'zstd', level }, context) => {
      const [lowest, highest] = ranges[algorithm]
      if (!enabled || level === undefined || (level >= lowest && level <= highest)) return
      const message = `${algorithm} has levels from ${lowest} to ${highest}, not ${level}`
      context.addIssue({ code: 'custom', path: ['level'], message, params: { code } })
    })
    .meta({ id })
}

/** Of one snapshot or standby. */
export const compression = withRange('invalid_snapshot_compression', 'SnapshotCompression')

export const policyCompression = withRange('invalid_snapshot_policy', 'PolicyCompression')

export type CompressionBody = z.output<typeof compression>
