// Memory images in an instance's directory or a snapshot's payload:
//   machine.state   memory and devices, as the framework wrote them; immutable, shared by hard link
//   disk-<n>.raw    the disk of the memory's instant, immutable as long as the image is there (raw-disks.ts)
//   memory.json     the manifest: configuration and machine identifier, without which the state restores nowhere; written last and removed first, so an image
//                   exists if and only if it does

import { link, lstat } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { defineRecord } from '../../files/record-format.ts'
import { removeFile, syncDirectory, syncFile } from '../../files/stage.ts'
import type { FilePart } from '../driver.ts'
import { damagedImage, imageManifest, manifestFile, sizeOf } from '../image-manifest.ts'
import { diskName, diskNumber, dropDisksAbove, lastDisk, linkDisk } from '../raw-disks.ts'
import { configuration, machineIdentifier } from './protocol.ts'

export const stateFile = 'machine.state'

const schema = z
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

export const vzManifestFormat = defineRecord({ kind: 'vz memory manifest', version: 1, schema })

type VzManifest = z.infer<typeof schema>

const manifest = imageManifest(vzManifestFormat)

/** What a file is for; undefined if it is none of the driver's that enters a payload. */
export function partOf(file: string): FilePart | undefined {
  if (file === manifestFile) return 'state'
  if (file === stateFile) return 'memory'
  return diskNumber(file) === undefined ? undefined : 'disk'
}

export const holdsImage = manifest.isThere

/** The manifest of a complete image whose parts are all there. */
export async function checkedManifest(directory: string): Promise<VzManifest> {
  const found = await manifest.demand(directory)
  const size = sizeOf(path.join(directory, stateFile))
  if (size !== found.stateBytes) throw damagedImage(directory, `${stateFile} has ${size ?? 'no'} bytes instead of ${found.stateBytes}`)
  if (sizeOf(path.join(directory, diskName(found.disk))) === undefined) throw damagedImage(directory, `${diskName(found.disk)} is missing`)
  return found
}

/** Completes an image whose state and disk lie in `target`. In an instance's own directory (`durable`) its parts are on disk before the manifest; a staged one is synced by its commit. */
export async function completeImage(target: string, image: Omit<VzManifest, 'version' | 'stateBytes'>, durable: boolean): Promise<number> {
  const stateBytes = (await lstat(path.join(target, stateFile))).size
  const value: VzManifest = { version: 1, ...image, stateBytes }
  if (!durable) await manifest.stage(target, value)
  else {
    await Promise.all([stateFile, diskName(image.disk)].map((name) => syncFile(path.join(target, name))))
    await syncDirectory(target)
    await manifest.commit(target, value)
  }
  return stateBytes
}

/** Removes an image, or what a broken save left of one. When the disks are written again, no loss of power brings it back. */
export async function removeImage(directory: string): Promise<void> {
  await manifest.remove(directory)
  await removeFile(path.join(directory, stateFile))
}

/** Removes an image where no process runs, together with disks that were made over its own: a start that failed has left them. */
export async function discardImage(directory: string): Promise<void> {
  if (holdsImage(directory)) await dropDisksAbove(directory, (await manifest.readWhole(directory))?.disk)
  await removeImage(directory)
}

/** Number of the disk that goes with what lies in a directory: the image's, or the last there is. */
export async function diskOf(directory: string): Promise<number> {
  const image = await manifest.readWhole(directory) // a damaged image takes nothing from the disks
  return image?.disk ?? lastDisk(directory)
}

/** Links the disk, and the image if asked for, into another directory. They are immutable from then on. */
export async function linkFrozen(directory: string, target: string, withMemory: boolean): Promise<void> {
  if (!withMemory) return linkDisk(directory, await diskOf(directory), target)
  const image = await checkedManifest(directory)
  await linkDisk(directory, image.disk, target)
  await link(path.join(directory, stateFile), path.join(target, stateFile))
  await manifest.stage(target, image)
}
