// Memory images in an instance's directory or a snapshot's payload:
//   machine.state   memory and devices, as the framework wrote them; immutable, shared by hard link
//   disk-<n>.raw    the disk of the memory's instant, immutable as long as the image is there (raw-disks.ts)
//   memory.json     the manifest: configuration and machine identifier, without which the state restores nowhere; written last and removed first, so an image
//                   exists if and only if it does

import { link, lstat } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { defineRecord, RecordError } from '../../files/record-format.ts'
import { removeFile, stageRecord, syncDirectory, syncFile, writeRecord } from '../../files/stage.ts'
import { isMissing } from '../../files/tree.ts'
import type { FilePart } from '../driver.ts'
import { diskName, diskNumber, lastDisk, linkDisk, refuseForeignDisks } from '../raw-disks.ts'
import { configuration, machineIdentifier } from './protocol.ts'

export const stateFile = 'machine.state'
const manifestFile = 'memory.json'

const manifest = z
  .object({
    version: z.literal(1),
    /** Of the machine that was saved. Its paths are those of that time: who goes on from it has its own. */
    configuration,
    machineIdentifier,
    /** Number of the disk of the memory's instant. */
    disk: z.int().nonnegative(),
    stateBytes: z.int().positive(),
  })
  .readonly()

export const vzManifestFormat = defineRecord({ kind: 'vz memory manifest', version: 1, schema: manifest })

export type VzManifest = z.infer<typeof manifest>

/** What a file is for; undefined if it is none of the driver's that enters a payload. */
export function partOf(file: string): FilePart | undefined {
  if (file === manifestFile) return 'state'
  if (file === stateFile) return 'memory'
  return diskNumber(file) === undefined ? undefined : 'disk'
}

/** The manifest, or undefined if there is no complete image. A damaged one is an error. */
export async function readManifest(directory: string): Promise<VzManifest | undefined> {
  try {
    return await vzManifestFormat.read(path.join(directory, manifestFile))
  } catch (error) {
    if (!(error instanceof RecordError)) throw error
    if (isMissing(error.cause)) return undefined
    throw new HypemanError(
      error.newer ? 'incompatible_version' : 'corrupt_snapshot',
      `the memory image in ${directory} can't be used, since ${error.message}; target_state Stopped starts from the disks`,
      { cause: error },
    )
  }
}

/** True if an image was completed here, also if its manifest is damaged by now. */
export async function hasManifest(directory: string): Promise<boolean> {
  return (await sizeOf(path.join(directory, manifestFile))) !== undefined
}

/** The manifest of a complete image whose parts are all there. */
export async function checkedManifest(directory: string): Promise<VzManifest> {
  const found = await readManifest(directory)
  if (found === undefined) throw new HypemanError('invalid_state', `there is no memory image in ${directory}`)
  const damaged = (what: string): HypemanError =>
    new HypemanError(
      'corrupt_snapshot',
      `the memory image in ${directory} is damaged (${what}); use another snapshot, or target_state Stopped to start from the disks`,
    )
  const size = await sizeOf(path.join(directory, stateFile))
  if (size !== found.stateBytes) throw damaged(`${stateFile} has ${size ?? 'no'} bytes instead of ${found.stateBytes}`)
  if ((await sizeOf(path.join(directory, diskName(found.disk)))) === undefined) throw damaged(`${diskName(found.disk)} is missing`)
  return found
}

/** A file's size in bytes; undefined if it is not there or no plain file. */
async function sizeOf(file: string): Promise<number | undefined> {
  const stats = await lstat(file).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  return stats?.isFile() === true ? stats.size : undefined
}

/** Completes an image whose state and disk lie in `target`. In an instance's own directory (`durable`) its parts are on disk before the manifest; a staged one is synced by its commit. */
export async function completeImage(target: string, image: Omit<VzManifest, 'version' | 'stateBytes'>, durable: boolean): Promise<number> {
  const stateBytes = (await lstat(path.join(target, stateFile))).size
  const value: VzManifest = { version: 1, ...image, stateBytes }
  if (!durable) await stageRecord(path.join(target, manifestFile), value)
  else {
    await Promise.all([stateFile, diskName(image.disk)].map((name) => syncFile(path.join(target, name))))
    await syncDirectory(target)
    await writeRecord(path.join(target, manifestFile), value, null)
  }
  return stateBytes
}

/** Removes an image, or what a broken save left of one. When the disks are written again, no loss of power brings it back. */
export async function removeImage(directory: string): Promise<void> {
  if (await removeFile(path.join(directory, manifestFile))) await syncDirectory(directory)
  await removeFile(path.join(directory, stateFile))
}

/** Number of the disk that goes with what lies in a directory: the image's, or the last there is. */
export async function diskOf(directory: string): Promise<number> {
  const image = await readManifest(directory).catch(() => undefined) // a damaged image takes nothing from the disks
  return image?.disk ?? lastDisk(directory)
}

/** Links the disk, and the image if asked for, into another directory. They are immutable from then on. */
export async function linkFrozen(directory: string, target: string, withMemory: boolean): Promise<void> {
  await refuseForeignDisks(directory)
  if (!withMemory) return linkDisk(directory, await diskOf(directory), target)
  const image = await checkedManifest(directory)
  await linkDisk(directory, image.disk, target)
  await link(path.join(directory, stateFile), path.join(target, stateFile))
  await stageRecord(path.join(target, manifestFile), image)
}
