// Memory images in an instance's directory or a snapshot's payload:
//   memory-<n>.base   guest RAM as a sparse file; immutable, shared by hard link; what a process maps privately
//   memory-<n>.diff   pages that differ from the base and the diffs before it, in the order of their numbers; immutable, shared by hard link
//   device.state      everything of the machine but RAM and disks
//   memory.json       names the parts; written last and removed first, so an image exists if and only if it does
// In a directory with an image the disk layers up to the manifest's are frozen: they belong to the memory's instant.
// Beside a process that maps a base lie the diffs of its last image, also when that image is used up: what the next one is compared with. Without them it is larger.

import { readdirSync, statSync } from 'node:fs'
import { link, rm } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { capturePages, makeRoom, mostHeldNow, storeHeld, type CapturedPages } from '../../files/memory-image/changes.ts'
import { checkDiff } from '../../files/memory-image/diff-file.ts'
import { createHoles, mergeDiff, saveAsBase } from '../../files/memory-image/image.ts'
import { findMapping, isMappedFile, lookForMapping, privatePages, type Mapping } from '../../files/memory-image/private-pages.ts'
import { defineRecord } from '../../files/record-format.ts'
import { punchZeros } from '../../files/sparse.ts'
import { removeFile, syncDirectory, syncFile } from '../../files/stage.ts'
import { damagedImage, imageManifest, manifestFile, sizeOf } from '../image-manifest.ts'
import { lastLayer, layerName, linkLayers } from './layers.ts'
import { diffPattern, removeDiffs, saveDiff } from './memory-diffs.ts'

export const stateFile = 'device.state'
/** All private pages of a process, if they are too many to be held while they are compared with the last image: never part of one. */
const wholeFile = 'memory.whole'
const basePattern = /^memory-(\d+)\.base$/

/** Private pages above both of these are merged into a base of its own: bytes, and share of the base's allocated size. */
const MERGE_ABOVE_BYTES = 64 * 1024 ** 2
const MERGE_ABOVE_SHARE = 0.5

const schema = z
  .object({
    version: z.literal(2),
    base: z.string().regex(basePattern),
    /** Of the base that the process maps which wrote this image: it outlives the image's removal. */
    mapped: z.string().regex(basePattern),
    /** In the order in which they lie over the base. */
    diffs: z.array(z.string().regex(diffPattern)).readonly(),
    ramBytes: z.int().positive(),
    /** Last disk layer of the memory's instant. */
    lastLayer: z.int().nonnegative(),
  })
  .readonly()

export const manifestFormat = defineRecord({
  kind: 'memory manifest',
  version: 2,
  schema,
  steps: { 1: ({ hasDiff, ...record }) => ({ ...record, diffs: hasDiff === true ? ['memory.diff'] : [] }) },
})

export type MemoryManifest = z.infer<typeof schema>

const manifest = imageManifest(manifestFormat)

/** What a file is of an image; undefined if it is of none. */
export function imagePart(file: string): 'state' | 'memory' | undefined {
  if (file === stateFile || file === manifestFile) return 'state'
  return basePattern.test(file) || diffPattern.test(file) ? 'memory' : undefined
}

function baseName(number: number): string {
  return `memory-${number}.base`
}

/** Removes whatever memory lies in a directory: what is started there next boots. */
export async function forgetMemory(directory: string): Promise<void> {
  await removeImage(directory)
  await removeMapped(directory)
}

/** RAM for a cold boot: holes. Whatever image lay there is gone. Returns the file's name. */
export async function createColdMemory(directory: string, ramBytes: number): Promise<string> {
  await forgetMemory(directory)
  await createHoles(path.join(directory, baseName(0)), ramBytes)
  return baseName(0)
}

export const { isThere: holdsImage, readWhole: readWholeManifest } = manifest

/** The manifest of a complete image whose parts are all there in the sizes it names. */
export async function checkedManifest(directory: string): Promise<MemoryManifest> {
  const found = await manifest.demand(directory)
  const size = sizeOf(path.join(directory, found.base))
  if (size !== found.ramBytes) throw damagedImage(directory, `${found.base} has ${size ?? 'no'} bytes instead of ${found.ramBytes}`)
  for (const name of [stateFile, layerName(found.lastLayer)])
    if ((sizeOf(path.join(directory, name)) ?? 0) === 0) throw damagedImage(directory, `${name} is missing`)
  for (const name of found.diffs) {
    if (sizeOf(path.join(directory, name)) === undefined) throw damagedImage(directory, `${name} is missing`)
    await checkDiff(path.join(directory, name), found.ramBytes)
  }
  return found
}

/** What was read of a paused process: enough to finish the image after it runs again. */
export type SavedPages = { readonly mapping: Mapping } & (
  | { readonly kind: 'base'; readonly bytes: number }
  | { readonly kind: 'diff'; readonly pages: CapturedPages }
)

/** Copies the private pages of a process that is paused by then. */
export type SavePages = (signal: AbortSignal) => Promise<SavedPages>

export interface SaveOptions {
  readonly pid: number
  readonly ramBytes: number
  /** With the base that the process maps. */
  readonly source: string
  readonly target: string
  /** Whether the guest runs until its pages are saved, so that whatever is done before shortens the time for which it stands still. */
  readonly running: boolean
  readonly signal: AbortSignal
  /** Most pages that are held in memory, in bytes; without it, by what the host has. */
  readonly mostHeld?: number
}

/** Looks how the pages of a process are to be saved: as a new base if it started cold, else as a diff over the base that it maps. */
export async function prepareSave(options: SaveOptions): Promise<SavePages> {
  const { pid, ramBytes, source, target, running, signal: preparing, mostHeld = mostHeldNow() } = options
  const mapping = (await lookForMapping(pid, basePattern, ramBytes)) ?? (await findMapping(pid, anonymous, ramBytes))
  const asBase = async (name: string, signal: AbortSignal): Promise<number> =>
    saveAsBase(mapping, await privatePages(mapping), path.join(target, name), signal)
  if (mapping.file === '')
    return async (signal) => ({ mapping: { ...mapping, file: noBase }, kind: 'base', bytes: await asBase(firstBase, signal) })
  const base = path.join(source, mapping.file)
  if (!(await isMappedFile(mapping, base)))
    throw new HypemanError(
      'conflict',
      `${base} is not the file that the VMM maps; stop and start the instance before its memory can be saved`,
    )
  if (statSync(base).blocks === 0) return async (signal) => ({ mapping, kind: 'base', bytes: await asBase(nextBase(mapping), signal) })
  const whole = path.join(target, wholeFile)
  const room = running ? await makeRoom(mapping, await privatePages(mapping), whole, preparing, mostHeld) : undefined
  return async (signal) => {
    const pages = await capturePages(mapping, await privatePages(mapping), whole, {
      signal,
      mostHeld,
      ...(room === undefined ? {} : { room }),
    })
    return { mapping, kind: 'diff', pages }
  }
}

/** The name of a mapping that is no file's. */
export const anonymous = /^$/
/** What a process maps whose memory is no file: a name that no file has. */
export const noBase = baseName(0)
/** Where the memory of such a process is saved. */
export const firstBase = baseName(1)

/** Completes an image whose memory was copied into `firstBase` while the guest ran. */
export async function finishLive(source: string, target: string, ramBytes: number, layer: number): Promise<void> {
  const image = { version: 2, mapped: noBase, ramBytes, lastLayer: layer, base: firstBase, diffs: [] } as const
  return writeManifest(source, target, image)
}

function nextBase(mapping: Mapping): string {
  return baseName(Number(basePattern.exec(mapping.file)?.[1] ?? 0) + 1)
}

/**
 * Completes an image: writes what changed since the last one, or merges a base, and writes the manifest. `source` is the directory with the mapped base.
 * Returns the bytes of memory that were written.
 */
export async function finishImage(
  saved: SavedPages,
  source: string,
  target: string,
  layer: number,
  signal: AbortSignal,
): Promise<{ readonly memoryBytes: number }> {
  const { mapping } = saved
  const complete = (image: Pick<MemoryManifest, 'base' | 'diffs'>): Promise<void> =>
    writeManifest(source, target, { version: 2, mapped: mapping.file, ramBytes: mapping.bytes, lastLayer: layer, ...image })
  if (saved.kind === 'base') {
    await complete({ base: nextBase(mapping), diffs: [] })
    return { memoryBytes: saved.bytes }
  }
  const base = path.join(source, mapping.file)
  const { bytes } = saved.pages
  if (bytes > MERGE_ABOVE_BYTES && bytes > statSync(base).blocks * 512 * MERGE_ABOVE_SHARE) {
    await storeHeld(saved.pages)
    await mergeDiff(base, path.join(target, wholeFile), path.join(target, nextBase(mapping)), signal)
    await rm(path.join(target, wholeFile))
    await removeDiffs(source)
    await complete({ base: nextBase(mapping), diffs: [] })
    return { memoryBytes: bytes }
  }
  const { diffs, memoryBytes } = await saveDiff(saved.pages, base, source, target, signal)
  await removeFile(path.join(target, wholeFile))
  if (source !== target) await link(base, path.join(target, mapping.file))
  await complete({ base: mapping.file, diffs })
  return { memoryBytes }
}

/** The manifest comes last. In an instance's own directory (`source`) everything it names is on disk before it; a staged one is synced by its commit. */
async function writeManifest(source: string, target: string, value: MemoryManifest): Promise<void> {
  // Of QEMU's devices most is zeros: as holes they take no room, and need not be written.
  await punchZeros(path.join(target, stateFile))
  if (source !== target) return manifest.stage(target, value)
  await Promise.all([...partsOf(value), layerName(value.lastLayer)].map((name) => syncFile(path.join(target, name))))
  await syncDirectory(target)
  return manifest.commit(target, value)
}

function partsOf(image: MemoryManifest): string[] {
  return [image.base, stateFile, ...image.diffs]
}

/** Links an image, with the disk layers of its instant, into a staged directory. */
export async function linkImage(directory: string, target: string, image: MemoryManifest): Promise<void> {
  await linkLayers(directory, target, image.lastLayer)
  await Promise.all(partsOf(image).map((name) => link(path.join(directory, name), path.join(target, name))))
  await manifest.stage(target, { ...image, mapped: image.base })
}

/** Number of the last disk layer that goes with what lies in a directory: the image's, or the last there is. */
export async function lastLayerOf(directory: string): Promise<number> {
  const image = await manifest.readWhole(directory) // a damaged image takes nothing from the disks
  return image?.lastLayer ?? lastLayer(directory)
}

/**
 * Removes an image, or what a broken save left of one, but neither the base that a running process maps nor diffs, which may lie over it. When the disks are written
 * again, no loss of power brings the image back.
 */
export async function removeImage(directory: string, keep?: string): Promise<void> {
  const found = await manifest.readWhole(directory) // a damaged manifest goes all the same
  await manifest.remove(directory)
  const mapped = keep ?? found?.mapped
  const parts = [stateFile, wholeFile, ...(found !== undefined && mapped !== undefined && found.base !== mapped ? [found.base] : [])]
  await Promise.all(parts.map((name) => removeFile(path.join(directory, name))))
}

/** Removes every base but the one a running process maps, and every diff but those kept: leftovers of a save that was undone, or all if no process runs. */
export async function removeMapped(directory: string, mapped?: string, diffs: readonly string[] = []): Promise<void> {
  for (const name of readdirSync(directory)) if (basePattern.test(name) && name !== mapped) await rm(path.join(directory, name))
  await removeDiffs(directory, diffs)
}

/** Name of the base that a process maps; undefined if its memory is no file. */
export async function mappedBase(pid: number, ramBytes: number): Promise<string | undefined> {
  return (await lookForMapping(pid, basePattern, ramBytes))?.file
}
