// What is told of the memory of an instance in standby that is to be compressed: its state, why it is not compressed, and sizes.

import type { InstanceState } from '../api/actions.ts'
import type { StandbyCompressionView } from '../api/schemas/snapshot-policy.ts'
import { notesOfUncompressed, sumOf } from '../files/compressed-files.ts'
import type { InstanceEntry } from './entry.ts'
import type { StandbyCompression } from './snapshot-policy.ts'
import type { CompressionSeen } from './compress-standby.ts'

export function standbyCompressionViewOf(
  { record, compressing, compressionSeen }: Pick<InstanceEntry, 'record' | 'compressing' | 'compressionSeen'>,
  state: InstanceState,
  nowMs: number,
): { standby_compression?: StandbyCompressionView } {
  const { standbyCompression: wanted, savedMemory } = record
  if (state !== 'Standby' || wanted === null) return {}
  const { algorithm, level, files } = wanted
  const seen = compressionSeen?.of === savedMemory ? compressionSeen : undefined
  const at = stateOf(wanted, compressing !== undefined, seen, nowMs)
  const notes = notesOfUncompressed(seen?.shared ?? [], wanted.kept)
  return {
    standby_compression: {
      state: at,
      ...{ algorithm, level },
      ...(at === 'waiting' ? { starts_at: wanted.notBefore } : {}),
      ...(at !== 'error' || seen?.error === undefined ? {} : { error: seen.error }),
      ...(notes.length === 0 ? {} : { note: notes.join('; ') }),
      ...(files.length === 0
        ? {}
        : {
            compressed_size_bytes: sumOf(files, 'compressedBytes'),
            uncompressed_size_bytes: sumOf(files, 'sizeBytes'),
          }),
    },
  }
}

function stateOf(
  { files, kept, notBefore }: StandbyCompression,
  isRunning: boolean,
  seen: CompressionSeen | undefined,
  nowMs: number,
): StandbyCompressionView['state'] {
  if (isRunning) return 'compressing'
  if (seen?.error !== undefined) return 'error'
  if (files.length > 0) return 'compressed'
  if (nowMs < Date.parse(notBefore)) return 'waiting'
  return kept.length + (seen?.shared.length ?? 0) > 0 ? 'none' : 'compressing'
}
