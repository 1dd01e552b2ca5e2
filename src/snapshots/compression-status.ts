// What is told of a snapshot's compression: its state, why it is not compressed, and sizes. Pure.

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
  const compressedBytes = sum(compressed.map((file) => file.compressedBytes))
  const note = noteOf(record, look)
  const onDisk = sum(compressed.map((file) => Math.ceil(file.compressedBytes / BLOCK_BYTES) * BLOCK_BYTES))
  return {
    state: stateOf(compressed.length > 0, error, waiting),
    setting: { algorithm: record.algorithm, level: record.level },
    ...(error === undefined ? {} : { error }),
    ...(note === undefined ? {} : { note }),
    compressedBytes,
    uncompressedBytes: sum(compressed.map((file) => file.sizeBytes)),
    sizeChange: compressedBytes - sum(gone.map((file) => file.sizeBytes)),
    allocatedChange: onDisk - sum(gone.map((file) => file.allocatedBytes)),
  }
}

function stateOf(isCompressed: boolean, error: string | undefined, waiting: boolean): CompressionStatus['state'] {
  if (waiting) return 'compressing'
  if (error !== undefined) return 'error'
  return isCompressed ? 'compressed' : 'none'
}

function noteOf(record: CompressionRecord, look: MemoryLook | undefined): string | undefined {
  if (look === undefined) return undefined
  const notes: string[] = []
  const [first] = look.shared
  if (first !== undefined) {
    const names = look.shared.map(({ name }) => name).join(', ')
    const others = Math.max(...look.shared.map((one) => one.others))
    notes.push(
      `${names}: shared with ${others} other ${others === 1 ? 'place' : 'places'} (instances, forks or snapshots), so a compressed copy would take room on top; compressed when nothing else uses it`,
    )
  }
  const present = look.compressed.filter(({ name }) => !look.absent.includes(name)).map(({ name }) => name)
  if (present.length > 0) notes.push(`${present.join(', ')}: there uncompressed as well, until nothing uses it any more`)
  if (record.kept.length > 0) notes.push(`${record.kept.join(', ')}: would not get smaller`)
  return notes.length === 0 ? undefined : notes.join('; ')
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0)
}
