// The seals of a snapshot (`seals.json` in its directory): what its record and every file of its payload was when it was taken. Written before the snapshot
// exists; later only to add digests that took time, and what a verification found. What is checked when: docs/reliability.md.

import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { z } from 'zod'
import { compressedPath } from '../files/compressed-files.ts'
import { compressionAlgorithms } from '../files/compression.ts'
import type { Digests } from '../files/digests.ts'
import { snapshotFiles } from '../files/layout.ts'
import { defineRecord, RecordError } from '../files/record-format.ts'
import { fileSeal, sealFiles, type FileProblem, type FileSeal } from '../files/seals.ts'
import { stageRecord } from '../files/stage.ts'
import { isMissing } from '../files/tree.ts'
import type { FilePart, Hypervisor } from '../hypervisors/driver.ts'

const sealsRecord = z.object({
  version: z.literal(1),
  snapshotId: z.string(),
  /** Names are paths below the snapshot's directory. */
  files: z.array(fileSeal).readonly(),
})

export const sealsFormat = defineRecord({ kind: 'seals record', version: 1, schema: sealsRecord, sealed: true })

/** A snapshot without seals that can be read: nothing in it can be trusted. */
export class SealsProblem extends Error implements FileProblem {
  override readonly name = snapshotFiles.seals
  readonly kind: FileProblem['kind']
  readonly what: string

  constructor(kind: FileProblem['kind'], what: string, cause: unknown) {
    super(`${snapshotFiles.seals} ${what}`, { cause })
    this.kind = kind
    this.what = what
  }
}

/** Seals what lies in a staged snapshot's directory and writes the seals beside it. */
export async function sealSnapshot(
  directory: string,
  snapshotId: string,
  driver: Hypervisor,
  digests: Digests,
): Promise<readonly FileSeal[]> {
  const names = [snapshotFiles.record, ...payloadFiles(directory)]
  const files = await sealFiles(directory, names, (name) => isReadWhole(name, driver), digests)
  await stageRecord(path.join(directory, snapshotFiles.seals), sealsRecordOf(snapshotId, files))
  return files
}

export function sealsRecordOf(snapshotId: string, files: readonly FileSeal[]): z.infer<typeof sealsRecord> {
  return { version: 1, snapshotId, files }
}

/** Throws a `SealsProblem`. */
export function readSeals(directory: string, snapshotId: string): readonly FileSeal[] {
  try {
    const file = path.join(directory, snapshotFiles.seals)
    const seals = sealsFormat.parse(readFileSync(file, 'utf8'), file)
    if (seals.snapshotId !== snapshotId) throw new Error(`they are those of the snapshot ${seals.snapshotId}`)
    return seals.files
  } catch (error) {
    if (isMissing(error)) throw new SealsProblem('missing', 'is missing', error)
    // A file that can't be read just now (no descriptor is left, the disk fails) is not a damaged one.
    if (error instanceof Error && 'syscall' in error) throw error
    const newer = error instanceof RecordError && error.newer
    throw new SealsProblem('bad', newer ? 'was written by a newer version of hypeman' : 'can not be read: it is damaged', error)
  }
}

/** Paths below a snapshot's directory of what lies in a snapshot's payload; none if the payload is gone. */
export function payloadFiles(directory: string): string[] {
  try {
    return readdirSync(path.join(directory, snapshotFiles.payload)).map((name) => path.join(snapshotFiles.payload, name))
  } catch (error) {
    if (isMissing(error) || (error instanceof Error && 'code' in error && error.code === 'ENOTDIR')) return []
    throw error
  }
}

/**
 * Files that lie in a payload and were not sealed: a driver might take them for its own. Not memory that is sealed as a compressed file: it is on its way in or out,
 * and a start from memory is preceded by its seal.
 */
export function strangers(seals: readonly FileSeal[], names: readonly string[]): FileProblem[] {
  const sealed = new Set(seals.map(({ name }) => name))
  const isCompressed = (name: string): boolean =>
    compressionAlgorithms.some((algorithm) => sealed.has(compressedPath(path.basename(name), { algorithm })))
  return names.flatMap((name) => (sealed.has(name) || isCompressed(name) ? [] : { name, kind: 'bad', what: 'is not part of the snapshot' }))
}

/** What a file of a snapshot's directory is to the driver; the record is nothing to it. */
export function partOf(name: string, driver: Hypervisor): FilePart | undefined {
  const prefix = `${snapshotFiles.payload}${path.sep}`
  return name.startsWith(prefix) ? driver.partOf(name.slice(prefix.length)) : undefined
}

/** True for what is small and decides everything: it is read before each restore and fork. */
export function isReadWhole(name: string, driver: Hypervisor): boolean {
  return name === snapshotFiles.record || partOf(name, driver) === 'state'
}
