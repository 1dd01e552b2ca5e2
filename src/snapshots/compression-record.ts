// How the memory of a snapshot is to be compressed, and what was (`compression.json` in its directory). What is in force is told by the seals alone: a compressed
// file that is not sealed is not there, and neither is a memory file whose seal is gone. So one rename of the seals is the switch from one to the other.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import { compressedFile, compressedPath, type CompressedFile } from '../files/compressed-files.ts'
import { compressionAlgorithms, type CompressionSetting } from '../files/compression.ts'
import { seeFile } from '../files/identity.ts'
import { snapshotFiles } from '../files/layout.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'
import type { FileSeal } from '../files/seals.ts'
import { isMissing } from '../files/tree.ts'
import type { MemoryName, OtherNames } from './shared-memory.ts'

const compressionRecord = z
  .object({
    version: z.literal(1),
    snapshotId: fileWord,
    algorithm: z.enum(compressionAlgorithms),
    level: z.int(),
    /** By the names of memory files in the payload. */
    files: z.array(compressedFile).readonly(),
    /** Memory files that do not get smaller, and stay as they are. */
    kept: z.array(fileWord).readonly(),
  })
  .readonly()

export const compressionFormat = defineRecord({ kind: 'compression record', version: 1, schema: compressionRecord, sealed: true })

export type CompressionRecord = z.infer<typeof compressionRecord>

export function compressionRecordOf(snapshotId: string, { algorithm, level }: CompressionSetting): CompressionRecord {
  return { version: 1, snapshotId, algorithm, level, files: [], kept: [] }
}

/** Undefined if the snapshot is not to be compressed; a `RecordError` if its record is damaged. */
export function readCompression(directory: string, snapshotId: string): CompressionRecord | undefined {
  const file = path.join(directory, snapshotFiles.compression)
  let text
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
  const found = compressionFormat.parse(text, file)
  if (found.snapshotId !== snapshotId) throw new Error(`${file} is that of the snapshot ${found.snapshotId}; put the snapshot's own back`)
  return found
}

/** Path of a memory file below the snapshot's directory. */
export function rawPath(name: string): string {
  return path.join(snapshotFiles.payload, name)
}

export function isCompressed(sealedName: string): boolean {
  return sealedName.startsWith(`${snapshotFiles.compressed}${path.sep}`)
}

/** A snapshot's memory as it lies there. */
export interface MemoryLook {
  /** What is in force of the compressed files. */
  readonly compressed: readonly CompressedFile[]
  /** Names of those whose memory file is not there. */
  readonly absent: readonly string[]
  /** Those whose memory file takes room as well, and nothing else names it but snapshots that have it compressed, too. */
  readonly freeable: readonly string[]
  /** Memory files that can be compressed now: nothing names them but snapshots that are to be compressed. */
  readonly ready: readonly string[]
  /** Memory files that others name too: compressed, they would take room twice. */
  readonly shared: readonly { readonly name: string; readonly others: number }[]
  /** Memory files that lie there uncompressed. */
  readonly names: readonly MemoryName[]
}

/** Looks without waiting, so that nothing changes in between. */
export function lookAtMemory(
  directory: string,
  record: CompressionRecord,
  seals: readonly FileSeal[],
  isMemory: (name: string) => boolean,
  othersOf: (inode: string) => OtherNames,
): MemoryLook {
  const sealed = new Set(seals.map(({ name }) => name))
  const compressed = record.files.filter(({ name }) => sealed.has(compressedPath(name, record)))
  const done = new Set(compressed.map(({ name }) => name))
  const [freeable, ready, shared]: [string[], string[], { name: string; others: number }[]] = [[], [], []]
  const names: MemoryName[] = []
  const payload = `${snapshotFiles.payload}${path.sep}`
  for (const { name: sealedName } of seals) {
    const name = sealedName.startsWith(payload) ? sealedName.slice(payload.length) : undefined
    if (name === undefined || !isMemory(name) || record.kept.includes(name)) continue
    const seen = seeFile(path.join(directory, sealedName))
    if (seen === undefined || seen.allocatedBytes === 0) continue // missing is for a check to tell; holes take no room
    const isCompressed = done.has(name)
    names.push({ inode: seen.inode, name, isCompressed })
    const others = othersOf(seen.inode)
    const strange = seen.links - 1 - (isCompressed ? others.compressed : others.all)
    if (isCompressed) {
      if (strange <= 0) freeable.push(name)
    } else if (strange <= 0) ready.push(name)
    else shared.push({ name, others: strange })
  }
  const absent = compressed.flatMap(({ name }) => (sealed.has(rawPath(name)) ? [] : [name]))
  // What could not be removed when it was given up.
  freeable.push(...absent.filter((name) => seeFile(path.join(directory, rawPath(name))) !== undefined))
  return { compressed, absent, freeable, ready, shared, names }
}
