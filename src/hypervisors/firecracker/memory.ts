// Memory images in an instance's directory or a snapshot's payload:
//   memory.image   guest RAM as one sparse file; immutable, shared by hard link, mapped privately by every process that goes on from it
//   memory.state   Firecracker's state of everything but RAM and disks
//   disk.frozen    the system disk of the same instant
//   memory.json    completes the image: written last and removed first, so an image exists if and only if it does
// Beside a process lies memory.since, a link to the image that its log of written pages counts from. It is away while nobody can tell: then the next image is a whole one. It goes with the process.

import { linkSync, rmSync, statSync } from 'node:fs'
import { link, rename } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { copyPayload } from '../../files/copy.ts'
import { createHoles } from '../../files/memory-image/image.ts'
import { defineRecord } from '../../files/record-format.ts'
import { punchZeros, writeOver } from '../../files/sparse.ts'
import { removeFile, syncDirectory, syncFile } from '../../files/stage.ts'
import { damagedImage, imageManifest, sizeOf } from '../image-manifest.ts'
import { dropFrozen, isFrozenInPlace, linkDisk, linkFrozen, syncThawed, takeBackFrozen } from './disks.ts'
import { diskFiles, memoryFiles } from './files.ts'

/** What a process's log of written pages counts from; the same beside what is being made of it; what a snapshot wrote of it. */
const [sinceFile, overFile, diffFile] = ['memory.since', 'memory.over', 'memory.diff']

const schema = z
  .object({
    version: z.literal(1),
    ramBytes: z.int().positive(),
    /** Bytes of the program's output that were in the log of the machine that was saved. */
    logged: z.int().nonnegative(),
  })
  .readonly()

export const manifestFormat = defineRecord({ kind: 'firecracker memory manifest', version: 1, schema, steps: {} })

type MemoryManifest = z.infer<typeof schema>

const manifest = imageManifest(manifestFormat)

export const holdsImage = manifest.isThere

/** The manifest of a complete image whose parts are all there in the sizes it names. */
export async function checkedManifest(directory: string): Promise<MemoryManifest> {
  const found = await manifest.demand(directory)
  const size = sizeOf(path.join(directory, memoryFiles.image))
  if (size !== found.ramBytes) throw damagedImage(directory, `${memoryFiles.image} has ${size ?? 'no'} bytes instead of ${found.ramBytes}`)
  for (const name of [memoryFiles.state, diskFiles.frozen])
    if ((sizeOf(path.join(directory, name)) ?? 0) === 0) throw damagedImage(directory, `${name} is missing`)
  return found
}

/** How a snapshot is asked for, and what it has to be made into. */
export interface PlannedSave {
  readonly kind: 'Full' | 'Diff'
  /** Absolute: where Firecracker is to write memory. */
  readonly file: string
  /** Makes it the image in `target`, and what the process's log counts from if that `lives`. The process may run by then. Returns the bytes of memory that were written. */
  finish(signal: AbortSignal, lives: () => boolean): Promise<number>
}

/**
 * Plans the saving of a process's memory. From here until `finish` has ended, nobody can tell what its log counts from. Without `pageHoles` the file system does not tell the pages of a diff from
 * what lies beside them, so that no diff is written over another image.
 */
export async function planSave(directory: string, target: string, pageHoles: boolean): Promise<PlannedSave> {
  const [since, over] = [path.join(directory, sinceFile), path.join(target, overFile)]
  const image = path.join(target, memoryFiles.image)
  for (const name of [memoryFiles.image, memoryFiles.state, diffFile, overFile]) await removeFile(path.join(target, name))
  const counted = (sizeOf(since) !== undefined && pageHoles) || isAllHoles(since)
  // Beside the image in the making, since what lies beside a process goes when that ends.
  if (counted) await rename(since, over)
  else await removeFile(since)
  const file = counted ? path.join(target, diffFile) : image
  return {
    kind: counted ? 'Diff' : 'Full',
    file,
    async finish(signal, lives) {
      const bytes = statSync(file).blocks * 512
      if (counted) await merge(over, file, image, signal)
      else await punchZeros(image, signal)
      await removeFile(over)
      if (lives()) linkSync(image, since) // at once: whoever hears of its end next removes it
      return bytes
    },
  }
}

/** Nobody has touched such memory. */
function isAllHoles(file: string): boolean {
  return statSync(file, { throwIfNoEntry: false })?.blocks === 0
}

/** Makes a new image of what the log counts from, which stays as it is, and what was written since, which is used up. */
async function merge(base: string, diff: string, image: string, signal: AbortSignal): Promise<void> {
  if (isAllHoles(base)) {
    await rename(diff, image)
    await punchZeros(image, signal)
    return
  }
  await copyPayload(base, image, { durable: false, signal })
  await writeOver(image, diff, signal)
  await removeFile(diff)
}

/** A process that boots: its log counts from memory that nobody has touched. */
export async function countFromNothing(directory: string, ramBytes: number): Promise<void> {
  await forgetCount(directory)
  await createHoles(path.join(directory, sinceFile), ramBytes)
}

/** A process that went on from the image in its directory. */
export async function countFromImage(directory: string): Promise<void> {
  await forgetCount(directory)
  await link(path.join(directory, memoryFiles.image), path.join(directory, sinceFile))
}

export async function forgetCount(directory: string): Promise<void> {
  await removeFile(path.join(directory, sinceFile))
}

/** At once, when the end of a process is heard of, and before anybody can start the next one in its directory. */
export function forgetCountAtOnce(directory: string): void {
  rmSync(path.join(directory, sinceFile), { force: true })
}

/** Completes an image in a staged directory, whose commit syncs it. */
export async function stageManifest(target: string, value: Omit<MemoryManifest, 'version'>): Promise<void> {
  await manifest.stage(target, { version: 1, ...value })
}

/** Completes an image in an instance's own directory: everything it is of is on disk before it. */
export async function commitManifest(directory: string, value: Omit<MemoryManifest, 'version'>): Promise<void> {
  await Promise.all([memoryFiles.image, memoryFiles.state, diskFiles.frozen].map((name) => syncFile(path.join(directory, name))))
  await syncDirectory(directory)
  await manifest.commit(directory, { version: 1, ...value })
}

/** Removes an image, or what a broken save left of one; what the machine wrote to is the disk. When disks are written again, no loss of power brings the image back. */
export async function removeImage(directory: string): Promise<void> {
  if (holdsImage(directory)) await syncThawed(directory)
  await manifest.remove(directory)
  for (const name of [memoryFiles.image, memoryFiles.state, diffFile, overFile]) await removeFile(path.join(directory, name))
  await dropFrozen(directory)
}

/** Removes an image where no process runs. Its disk is the disk: what lies there as the live one may be what a start that came to nothing has written. */
export async function discardImage(directory: string): Promise<void> {
  if (holdsImage(directory)) await takeBackFrozen(directory)
  await removeImage(directory)
  await forgetCount(directory)
}

/** Removes the image that a process of the directory has saved itself, not the one that it was started from: over that one it has a disk of its own. */
export async function dropOwnImage(directory: string): Promise<void> {
  if (holdsImage(directory) && (await isFrozenInPlace(directory))) await removeImage(directory)
}

/** Links an image with its disk into a payload (`linkFrozen`), or out of one into an instance's staged directory (`linkDisk`). */
export async function linkImage(from: string, to: string, way: 'into a payload' | 'out of a payload'): Promise<void> {
  const { version: _version, ...value } = await checkedManifest(from)
  await (way === 'into a payload' ? linkFrozen(from, to) : linkDisk(from, to, true))
  for (const name of [memoryFiles.image, memoryFiles.state]) await link(path.join(from, name), path.join(to, name))
  await stageManifest(to, value)
}
