// What is told of a snapshot's compression: its state, why it is not compressed, and sizes. Pure.

import { notesOfUncompressed, sumOf } from '../files/compressed-files.ts'
import type { CompressionSetting } from '../files/compression.ts'
import type { CompressionRecord, MemoryLook } from './compression-record.ts'

export interface CompressionStatus {
  readonly state: 'none' | 'compressing' | 'compressed' | 'error'
  readonly setting: CompressionSetting
  readonly error?: string
  /** Why something is not compressed, or takes room all the same. */
  readonly note?: string
  /** Of all files that are compressed, in bytes; 0 if none is. */
  readonly compressedBytes: number
  readonly uncompressedBytes: number
  /** What is to be added to the sizes that the snapshot had when it was taken, in bytes; negative when it takes less now. */
  readonly sizeChange: number
  readonly allocatedChange: number
}

const BLOCK_BYTES = 4096

/** `look` is undefined if the snapshot can't be looked at: `error` says why. `waiting`: nothing keeps what is ready from being compressed. */
export function statusOf(
  record: CompressionRecord,
  look: MemoryLook | undefined,
  { error, waiting }: { readonly error: string | undefined; readonly waiting: boolean },
): CompressionStatus {
  const compressed = look?.compressed ?? []
  const gone = compressed.filter(({ name }) => look?.absent.includes(name) === true)
  const compressedBytes = sumOf(compressed, 'compressedBytes')
  const note = noteOf(record, look)
  const onDisk = compressed.reduce((sum, file) => sum + Math.ceil(file.compressedBytes / BLOCK_BYTES) * BLOCK_BYTES, 0)
  return {
    state: stateOf(compressed.length > 0, error, waiting),
    setting: { algorithm: record.algorithm, level: record.level },
    ...(error === undefined ? {} : { error }),
    ...(note === undefined ? {} : { note }),
    compressedBytes,
    uncompressedBytes: sumOf(compressed, 'sizeBytes'),
    sizeChange: compressedBytes - sumOf(gone, 'sizeBytes'),
    allocatedChange: onDisk - sumOf(gone, 'allocatedBytes'),
  }
}

function stateOf(isCompressed: boolean, error: string | undefined, waiting: boolean): CompressionStatus['state'] {
  if (waiting) return 'compressing'
  if (error !== undefined) return 'error'
  return isCompressed ? 'compressed' : 'none'
}

function noteOf(record: CompressionRecord, look: MemoryLook | undefined): string | undefined {
  if (look === undefined) return undefined
  const present = look.compressed.filter(({ name }) => !look.absent.includes(name)).map(({ name }) => name)
  const notes = notesOfUncompressed(look.shared, record.kept)
  if (present.length > 0) notes.push(`${present.join(', ')}: there uncompressed as well, until nothing uses it any more`)
  return notes.length === 0 ? undefined : notes.join('; ')
}
