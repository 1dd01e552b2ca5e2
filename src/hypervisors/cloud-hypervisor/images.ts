// Memory images in an instance's directory or a snapshot's payload: what the VMM wrote (memory-ranges, state.json, config.json), the disk of the same instant (disk-<n>.raw), and
//   memory.json   names them; written last and removed first, so an image exists if and only if it does
// All are immutable and shared by hard link. While a directory holds an image no process writes to its disk: the one that goes on from it has a copy with the next number (../raw-disks.ts).

import { statSync } from 'node:fs'
import { link, readFile, rename, rm, truncate } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { copyPayload } from '../../files/copy.ts'
import { defineRecord } from '../../files/record-format.ts'
import { punchZeros, writeOver } from '../../files/sparse.ts'
import { removeFile, syncDirectory, syncFile } from '../../files/stage.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import { damagedImage, imageManifest, sizeOf } from '../image-manifest.ts'
import { consumeDisk, diskName, dropDisksAbove, lastDisk, linkDisk } from '../raw-disks.ts'
import { snapshotParts, vmmFiles } from './files.ts'
import { vmConfig, type VmConfig } from './vm-config.ts'

const schema = z
  .object({
    version: z.literal(1),
    ramBytes: z.int().positive(),
    /** Size of `memory-ranges`. */
    memoryBytes: z.int().positive(),
    /** Number of the disk of the memory's instant. */
    disk: z.int().nonnegative(),
  })
  .readonly()

export const savedMachineFormat = defineRecord({ kind: 'saved machine', version: 1, schema })

type SavedMachine = z.infer<typeof schema>

const manifest = imageManifest(savedMachineFormat)

const parts = Object.values(snapshotParts)

export const holdsImage = manifest.isThere

/** The manifest of a complete image whose parts are all there in the sizes it names. */
export async function checkedManifest(directory: string): Promise<SavedMachine> {
  const found = await manifest.demand(directory)
  const size = sizeOf(path.join(directory, snapshotParts.memory))
  if (size !== found.memoryBytes)
    throw damagedImage(directory, `${snapshotParts.memory} has ${size ?? 'no'} bytes instead of ${found.memoryBytes}`)
  for (const name of [snapshotParts.state, snapshotParts.config, diskName(found.disk)])
    if ((sizeOf(path.join(directory, name)) ?? 0) === 0) throw damagedImage(directory, `${name} is missing`)
  return found
}

/** The configuration that the VMM saved. */
export async function savedConfig(directory: string): Promise<VmConfig> {
  const text = await readFile(path.join(directory, snapshotParts.config), 'utf8')
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw damagedImage(directory, `${snapshotParts.config} is no JSON`, cause)
  }
  const checked = vmConfig.safeParse(value)
  if (checked.success) return checked.data
  const problems = checked.error.issues.map((issue) => `${issue.path.map(String).join('.')}: ${issue.message}`)
  throw damagedImage(directory, `${snapshotParts.config}: ${problems.join(', ')}`, checked.error)
}

/** Completes an image whose parts lie in a staged directory, the disk among them. */
export async function stageImage(directory: string, ramBytes: number, disk: number): Promise<void> {
  await manifest.stage(directory, manifestOf(directory, ramBytes, disk))
}

/** Makes what the VMM wrote into `saving` the image of the instance's own directory, durably: parts and disk are on disk before the manifest. */
export async function completeImage(directory: string, saving: string, ramBytes: number, disk: number): Promise<void> {
  await Promise.all([...parts.map((name) => path.join(saving, name)), path.join(directory, diskName(disk))].map(syncFile))
  for (const name of parts) await rename(path.join(saving, name), path.join(directory, name))
  await syncDirectory(directory)
  await manifest.commit(directory, manifestOf(directory, ramBytes, disk))
}

function manifestOf(directory: string, ramBytes: number, disk: number): SavedMachine {
  return { version: 1, ramBytes, memoryBytes: sizeOf(path.join(directory, snapshotParts.memory)) ?? 0, disk }
}

/** Links an image with its disk into a staged directory. */
export async function linkImage(directory: string, target: string): Promise<void> {
  const image = await checkedManifest(directory)
  await linkDisk(directory, image.disk, target)
  await Promise.all(parts.map((name) => link(path.join(directory, name), path.join(target, name))))
  await manifest.stage(target, image)
}

/** Number of the disk that goes with what lies in a directory: the image's, or the last there is. */
export async function diskOf(directory: string): Promise<number> {
  const image = await manifest.readWhole(directory) // a damaged image takes nothing from the disks
  return image?.disk ?? lastDisk(directory)
}

/** Removes an image, or what a broken save left of one. When the disk is written again, no loss of power brings the image back. Idempotent. */
export async function removeImage(directory: string): Promise<void> {
  await manifest.remove(directory)
  for (const name of parts) await removeFile(path.join(directory, name))
  for (const name of [vmmFiles.saving, vmmFiles.restoring]) await rm(path.join(directory, name), { recursive: true, force: true })
}

/** Keeps what a process was restored from on demand beside what is being saved of it: its own goes when it ends. To be called before anything is saved. */
export async function keepBase(directory: string, saving: string): Promise<void> {
  const base = path.join(directory, vmmFiles.base)
  if (sizeOf(base) !== undefined) await link(base, path.join(saving, vmmFiles.base))
}

/**
 * Completes what the VMM wrote of its memory. A process that was restored on demand writes the pages alone that its guest has asked for since, among them all that it changed: they go over those of
 * the memory that it was restored from (`keepBase`). Returns the bytes that the memory takes on disk.
 */
export async function completeMemory(written: string, signal: AbortSignal): Promise<number> {
  const [file, base] = [path.join(written, snapshotParts.memory), path.join(written, vmmFiles.base)]
  if (sizeOf(base) === undefined) return punchZeros(file, signal)
  const asked = `${file}.tmp`
  await rename(file, asked)
  await copyPayload(base, file, { signal, durable: false })
  await writeOver(file, asked, signal)
  // Memory that was plugged in since lies behind the rest.
  await diskErrors(file, async () => truncate(file, Math.max(statSync(file).size, statSync(asked).size)))
  await rm(asked)
  await rm(base)
  return statSync(file).blocks * 512
}

/** Removes an image where no process runs, together with disks that were made over its own: a start that failed has left them. */
export async function discardImage(directory: string): Promise<void> {
  if (holdsImage(directory)) await dropDisksAbove(directory, (await manifest.readWhole(directory))?.disk)
  await removeImage(directory)
  await removeFile(path.join(directory, vmmFiles.base))
}

/** After a machine that was restored from the image runs on the last disk. */
export function consumeImage(directory: string): Promise<void> {
  return consumeDisk(directory, () => removeImage(directory))
}
