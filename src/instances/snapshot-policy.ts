// How an instance's memory is compressed: its policy as the record keeps it, and what a standby or a snapshot takes from it. Pure rules.

import { z } from 'zod'
import { timestamp } from '../api/schemas/common.ts'
import { defaultLevels, type CompressionBody } from '../api/schemas/compression.ts'
import type { SnapshotPolicyBody } from '../api/schemas/snapshot-policy.ts'
import { formatDuration, parseDuration } from '../api/units.ts'
import { compressedFile } from '../files/compressed-files.ts'
import { compressionAlgorithms, type CompressionSetting } from '../files/compression.ts'
import { fileWord } from '../files/record-format.ts'

const setting = { algorithm: z.enum(compressionAlgorithms), level: z.int() }

/** Null in a record: none. */
export const snapshotPolicyRecord = z
  .object({
    /** Null: not said. */
    compression: z
      .object({ enabled: z.boolean(), ...setting })
      .readonly()
      .nullable(),
    /** From the standby until its memory is compressed; null: not said. */
    standbyDelayMs: z.number().nonnegative().nullable(),
  })
  .readonly()

export type SnapshotPolicy = z.infer<typeof snapshotPolicyRecord>

/** Null in a record: the memory of its standby is not to be compressed, or there is none. */
export const standbyCompressionRecord = z
  .object({
    ...setting,
    notBefore: timestamp,
    /** Memory files that lie there compressed and in no other form: the seals of the saved memory name these. */
    files: z.array(compressedFile).readonly(),
    /** Memory files that do not get smaller, and stay as they are. */
    kept: z.array(fileWord).readonly(),
  })
  .readonly()

export type StandbyCompression = z.infer<typeof standbyCompressionRecord>

/** What one standby asks for beside the policy; absent: nothing. */
export interface StandbyRequest {
  readonly compression?: CompressionBody | undefined
  readonly delayMs?: number | undefined
}

/** What a body asks for, with what it leaves out filled in; undefined if it is not to be compressed. */
export function settingOf(asked: CompressionBody | undefined): CompressionSetting | undefined {
  return asked?.enabled === true ? levelled(asked) : undefined
}

/** What the policy says of memory of which nobody said anything else, and where it says nothing, the server (`usual`); undefined if it is not to be compressed. */
export function policySetting(policy: SnapshotPolicy | null, usual: CompressionSetting | undefined): CompressionSetting | undefined {
  const compression = policy?.compression ?? null
  if (compression === null) return usual
  return compression.enabled ? { algorithm: compression.algorithm, level: compression.level } : undefined
}

/** How the memory of a standby that begins now is to be compressed: as it was asked for, else by the policy, else as the server usually has it. */
export function standbyCompressionOf(
  policy: SnapshotPolicy | null,
  usual: CompressionSetting | undefined,
  request: StandbyRequest,
  nowMs: number,
): StandbyCompression | null {
  const wanted = request.compression === undefined ? policySetting(policy, usual) : settingOf(request.compression)
  if (wanted === undefined) return null
  const delayMs = request.delayMs ?? policy?.standbyDelayMs ?? 0
  return { ...wanted, notBefore: new Date(nowMs + delayMs).toISOString(), files: [], kept: [] }
}

/** The policy that a body asks for; the schema has checked its duration. Null for one that says nothing. */
export function snapshotPolicyOf({ compression, standby_compression_delay: delay }: SnapshotPolicyBody): SnapshotPolicy | null {
  if (compression === undefined && delay === undefined) return null
  return {
    compression: compression === undefined ? null : { enabled: compression.enabled, ...levelled(compression) },
    standbyDelayMs: delay === undefined ? null : (parseDuration(delay) ?? 0),
  }
}

function levelled({ algorithm = 'zstd', level = defaultLevels[algorithm] }: CompressionBody): CompressionSetting {
  return { algorithm, level }
}

export function snapshotPolicyViewOf(policy: SnapshotPolicy | null): { snapshot_policy?: SnapshotPolicyBody } {
  if (policy === null) return {}
  const { compression, standbyDelayMs } = policy
  return {
    snapshot_policy: {
      ...(compression === null ? {} : { compression: { ...compression } }),
      ...(standbyDelayMs === null ? {} : { standby_compression_delay: formatDuration(standbyDelayMs) }),
    },
  }
}
