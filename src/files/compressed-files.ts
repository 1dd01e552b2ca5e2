// Files that lie in a directory compressed, beside what they were or instead of it: how they are made, proven and brought back. Which of the two forms is in force
// is told by the seals of their owner alone (snapshots, instances in standby): what the seals do not name is not there, and is removed at the next chance.

import { link, mkdir, readdir, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { isHypemanError, type HypemanError } from '../api/errors.ts'
import { compressedSuffix, compressFile, decompressFile, decompressingCommand, type CompressionSetting } from './compression.ts'
import { contentDigestPattern } from './content-digest.ts'
import type { Digests } from './digests.ts'
import { seeFile, type SeenFile } from './identity.ts'
import { compressedDirectory } from './layout.ts'
import { fileWord } from './record-format.ts'
import { isSealed, lookAt, sealOf, writtenBeforeDigest, type FileSeal } from './seals.ts'
import { syncDirectory, syncFile } from './stage.ts'
import { isMissing } from './tree.ts'

export const compressedFile = z
  .object({
    /** What it was called before. */
    name: fileWord,
    /** Of what it was before; it was compressed and came back with this digest. */
    sizeBytes: z.int().nonnegative(),
    allocatedBytes: z.int().nonnegative(),
    digest: z.string().regex(contentDigestPattern),
    compressedBytes: z.int().nonnegative(),
  })
  .readonly()

export type CompressedFile = z.infer<typeof compressedFile>

/** Path of the compressed form of a file, below the directory that its owner keeps. */
export function compressedPath(name: string, { algorithm }: Pick<CompressionSetting, 'algorithm'>): string {
  return path.join(compressedDirectory, `${name}${compressedSuffix[algorithm]}`)
}

/** A file that is to be compressed, as it was sealed. */
export interface SealedFile {
  /** Its name alone: that of its compressed form is made of it. */
  readonly name: string
  /** Its path below the owner's directory is the seal's. */
  readonly seal: FileSeal
  readonly seen: SeenFile
  readonly path: string
}

/** A file below an owner's directory that is as it was sealed; throws otherwise. */
export function sealedFile(directory: string, seals: readonly FileSeal[], sealedName: string): SealedFile {
  const name = path.basename(sealedName)
  const seal = seals.find((one) => one.name === sealedName)
  if (seal === undefined) throw new Error(`${name} is not among the sealed files of ${directory}`)
  const file = path.join(directory, sealedName)
  const seen = seeFile(file)
  const problem = lookAt(seal, seen)
  if (seen === undefined || problem !== undefined) throw new Error(`${name} ${problem?.what ?? 'is missing'}`)
  if (seal.damagedAt !== null) throw new Error(`${name} was found damaged when its contents were verified`)
  if (!isSealed(seal, seen)) throw new Error(`${name} ${writtenBeforeDigest}, or put back since; its contents can't be trusted`)
  return { name, seal, seen, path: file }
}

/** Where the compressed form of a file is made. */
function inStage(stage: string, name: string, setting: CompressionSetting): string {
  return path.join(stage, path.basename(compressedPath(name, setting)))
}

/** Compresses files into a staged directory. `twins` are files that should hold what some of them become, by their names: they are linked instead of being made anew. */
export async function compressInto(
  stage: string,
  files: readonly SealedFile[],
  setting: CompressionSetting,
  signal: AbortSignal,
  twins: ReadonlyMap<string, string> = new Map(),
): Promise<void> {
  for (const { name, path: file } of files)
    if (!(await linked(twins.get(name), inStage(stage, name, setting))))
      await compressFile(file, inStage(stage, name, setting), setting, signal)
}

/** False if there is no such file, or not any more. */
async function linked(twin: string | undefined, target: string): Promise<boolean> {
  if (twin === undefined) return false
  try {
    await link(twin, target)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

/** Decompresses what was compressed into a staged directory, and rejects if that is not what was sealed. */
export async function compareIn(
  stage: string,
  files: readonly SealedFile[],
  setting: CompressionSetting,
  digests: Digests,
  signal: AbortSignal,
): Promise<readonly CompressedFile[]> {
  return Promise.all(
    files.map(async ({ name, seal, seen, path: file }) => {
      const { sizeBytes } = seal
      const compressed = inStage(stage, name, setting)
      const found = await digests.readOutput({ command: decompressingCommand(compressed, setting.algorithm), sizeBytes }, signal)
      const digest = seal.digest ?? digests.known(seen) ?? (await digestOf(file, seal, digests, signal))
      if (found !== digest) throw new Error(`${name} has other contents than when it was saved, or did not come back as it was`)
      return { name, sizeBytes, allocatedBytes: seen.allocatedBytes, digest, compressedBytes: seeFile(compressed)?.sizeBytes ?? 0 }
    }),
  )
}

/** For a file whose digest nobody has taken yet. */
async function digestOf(file: string, seal: FileSeal, digests: Digests, signal: AbortSignal): Promise<string> {
  const { digest, identity } = await digests.read(file, { urgent: false, signal })
  if (!isSealed(seal, identity)) throw new Error(`${seal.name} was replaced while it was read`)
  digests.remember(identity, digest)
  return digest
}

/** Syncs the compressed files in a staged directory, and takes their digests, by the names of what they were. */
export async function digestsIn(
  stage: string,
  files: readonly CompressedFile[],
  setting: CompressionSetting,
  digests: Digests,
  signal: AbortSignal,
): Promise<ReadonlyMap<string, string>> {
  const found = new Map<string, string>()
  for (const { name } of files) {
    const file = inStage(stage, name, setting)
    await syncFile(file)
    found.set(name, (await digests.read(file, { urgent: false, signal })).digest)
  }
  return found
}

/** Moves compressed files, which are on disk by then (`digestsIn`), from a staged directory to their place in the owner's, durably. */
export async function placeCompressed(
  stage: string,
  directory: string,
  files: readonly CompressedFile[],
  setting: CompressionSetting,
): Promise<void> {
  if (files.length === 0) return
  const place = path.join(directory, compressedDirectory)
  await mkdir(place, { recursive: true, mode: 0o700 })
  for (const { name } of files) {
    await rename(inStage(stage, name, setting), path.join(directory, compressedPath(name, setting)))
  }
  await syncDirectory(place)
  await syncDirectory(directory)
}

/** Seals of compressed files that are in their place. */
export function sealsOfCompressed(
  directory: string,
  files: readonly CompressedFile[],
  setting: CompressionSetting,
  digests: ReadonlyMap<string, string>,
): FileSeal[] {
  return files.map(({ name }) => {
    const sealedName = compressedPath(name, setting)
    const seen = seeFile(path.join(directory, sealedName))
    if (seen === undefined) throw new Error(`${sealedName} is missing`)
    return sealOf(sealedName, seen, digests.get(name) ?? null)
  })
}

/** Removes compressed files that are not sealed: what an attempt has left that was never in force, or what is not any more. */
export async function removeUnsealedCompressed(directory: string, seals: readonly FileSeal[]): Promise<void> {
  const sealed = new Set(seals.map(({ name }) => name))
  const place = path.join(directory, compressedDirectory)
  for (const name of await namesIn(place)) if (!sealed.has(path.join(compressedDirectory, name))) await rm(path.join(place, name))
}

/** Decompresses files from an owner's directory into a staged one, and syncs what comes out. `corrupt` makes the error of a damaged one. */
export async function decompressInto(
  stage: string,
  directory: string,
  files: readonly CompressedFile[],
  { algorithm }: Pick<CompressionSetting, 'algorithm'>,
  corrupt: (what: string, cause?: unknown) => HypemanError,
  signal: AbortSignal,
): Promise<void> {
  for (const { name, sizeBytes } of files) {
    const [compressed, made] = [compressedPath(name, { algorithm }), path.join(stage, name)]
    const bytes = await decompressFile(path.join(directory, compressed), made, algorithm, signal).then(
      async () => (await stat(made)).size,
      (cause: unknown) => Promise.reject(isHypemanError(cause, 'corrupt_snapshot') ? corrupt(`${compressed} is damaged`, cause) : cause),
    )
    if (bytes !== sizeBytes) throw corrupt(`${compressed} holds ${bytes} bytes instead of ${sizeBytes}`)
    await syncFile(made)
  }
}

/** The seal of a file that was brought back: its digest is that of before, since size and checksum of what came out were right. */
export function sealOfRaw(directory: string, sealedName: string, digest: string): FileSeal {
  const seen = seeFile(path.join(directory, sealedName))
  if (seen === undefined) throw new Error(`${sealedName} is missing`)
  return sealOf(sealedName, seen, digest)
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}

/** For the events of whatever the memory was brought back for. */
export function noteOfDecompression(files: readonly CompressedFile[], algorithm: CompressionSetting['algorithm']): string {
  const mebibytes = (which: 'compressedBytes' | 'allocatedBytes'): string => (sumOf(files, which) / 1024 ** 2).toFixed(1)
  return `${mebibytes('allocatedBytes')} MiB of memory lay there compressed by ${algorithm} (${mebibytes('compressedBytes')} MiB)`
}

/** A memory file that others name, too: how many. */
export interface SharedFile {
  readonly name: string
  readonly others: number
}

/** Why memory files are not compressed: they are shared, or would not get smaller. */
export function notesOfUncompressed(shared: readonly SharedFile[], kept: readonly string[]): string[] {
  const notes: string[] = []
  if (shared.length > 0) {
    const others = Math.max(...shared.map((one) => one.others))
    const names = shared.map(({ name }) => name).join(', ')
    notes.push(
      `${names}: shared with ${others} other ${others === 1 ? 'place' : 'places'} (instances, forks or snapshots), so a compressed copy would take room on top; compressed when nothing else uses it`,
    )
  }
  if (kept.length > 0) notes.push(`${kept.join(', ')}: would not get smaller`)
  return notes
}

export function sumOf<K extends string>(files: readonly Readonly<Record<K, number>>[], which: K): number {
  return files.reduce((sum, file) => sum + file[which], 0)
}
