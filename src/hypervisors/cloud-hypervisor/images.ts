// Memory images in an instance's directory or a snapshot's payload: what the VMM wrote (memory-ranges, state.json, config.json), the disk of the same instant (disk-<n>.raw), and
//   memory.json   names them; written last and removed first, so an image exists if and only if it does
// All are immutable and shared by hard link. While a directory holds an image no process writes to its disk: the one that goes on from it has a copy with the next number (../raw-disks.ts).

import { statSync } from 'node:fs'
import { link, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { copyPayload } from '../../files/copy.ts'
import { defineRecord, RecordError } from '../../files/record-format.ts'
import { punchZeros, writeOver } from '../../files/sparse.ts'
import { removeFile, stageRecord, syncDirectory, syncFile, writeRecord } from '../../files/stage.ts'
import { isMissing } from '../../files/tree.ts'
import { diskName, keepDisk, lastDisk, linkDisk, removeDisks, syncDisk } from '../raw-disks.ts'
import { manifestFile, snapshotParts, vmmFiles } from './files.ts'
import { vmConfig, type VmConfig } from './vm-config.ts'

const manifest = z
  .object({
    version: z.literal(1),
    ramBytes: z.int().positive(),
    /** Size of `memory-ranges`. */
    memoryBytes: z.int().positive(),
    /** Number of the disk of the memory's instant. */
    disk: z.int().nonnegative(),
  })
  .readonly()

export const savedMachineFormat = defineRecord({ kind: 'saved machine', version: 1, schema: manifest })

type SavedMachine = z.infer<typeof manifest>

const parts = Object.values(snapshotParts)

/** The image's manifest, or undefined if there is no complete image. A damaged manifest is an error. */
export async function readManifest(directory: string): Promise<SavedMachine | undefined> {
  try {
    return await savedMachineFormat.read(path.join(directory, manifestFile))
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

/** True if an image was completed here, also if its manifest is damaged by now: then it is still what the instance is, and using it says so. */
export function holdsImage(directory: string): boolean {
  return sizeOf(path.join(directory, manifestFile)) !== undefined
}

/** The manifest of a complete image whose parts are all there in the sizes it names. */
export async function checkedManifest(directory: string): Promise<SavedMachine> {
  const found = await readManifest(directory)
  if (found === undefined) throw new HypemanError('invalid_state', `there is no memory image in ${directory}`)
  const size = sizeOf(path.join(directory, snapshotParts.memory))
  if (size !== found.memoryBytes)
    throw damaged(directory, `${snapshotParts.memory} has ${size ?? 'no'} bytes instead of ${found.memoryBytes}`)
  for (const name of [snapshotParts.state, snapshotParts.config, diskName(found.disk)])
    if ((sizeOf(path.join(directory, name)) ?? 0) === 0) throw damaged(directory, `${name} is missing`)
  return found
}

/** The configuration that the VMM saved. */
export async function savedConfig(directory: string): Promise<VmConfig> {
  const text = await readFile(path.join(directory, snapshotParts.config), 'utf8')
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw damaged(directory, `${snapshotParts.config} is no JSON`, cause)
  }
  const checked = vmConfig.safeParse(value)
  if (checked.success) return checked.data
  const problems = checked.error.issues.map((issue) => `${issue.path.map(String).join('.')}: ${issue.message}`)
  throw damaged(directory, `${snapshotParts.config}: ${problems.join(', ')}`, checked.error)
}

function damaged(directory: string, what: string, cause?: unknown): HypemanError {
  return new HypemanError(
    'corrupt_snapshot',
    `the memory image in ${directory} is damaged (${what}); use another snapshot, or target_state Stopped to start from the disks`,
    { cause },
  )
}

/** A file's size in bytes; undefined if it does not exist. */
function sizeOf(file: string): number | undefined {
  return statSync(file, { throwIfNoEntry: false })?.size
}

/** Completes an image whose parts lie in a staged directory, the disk among them. */
export async function stageImage(directory: string, ramBytes: number, disk: number): Promise<void> {
  await stageRecord(path.join(directory, manifestFile), manifestOf(directory, ramBytes, disk))
}

/** Makes what the VMM wrote into `saving` the image of the instance's own directory, durably: parts and disk are on disk before the manifest. */
export async function completeImage(directory: string, saving: string, ramBytes: number, disk: number): Promise<void> {
  await Promise.all([...parts.map((name) => path.join(saving, name)), path.join(directory, diskName(disk))].map(syncFile))
  for (const name of parts) await rename(path.join(saving, name), path.join(directory, name))
  await syncDirectory(directory)
  await writeRecord(path.join(directory, manifestFile), manifestOf(directory, ramBytes, disk), null)
}

function manifestOf(directory: string, ramBytes: number, disk: number): SavedMachine {
  return { version: 1, ramBytes, memoryBytes: sizeOf(path.join(directory, snapshotParts.memory)) ?? 0, disk }
}

/** Links an image with its disk into a staged directory. */
export async function linkImage(directory: string, target: string): Promise<void> {
  const image = await checkedManifest(directory)
  await linkDisk(directory, image.disk, target)
  await Promise.all(parts.map((name) => link(path.join(directory, name), path.join(target, name))))
  await stageRecord(path.join(target, manifestFile), image)
}

/** Number of the disk that goes with what lies in a directory: the image's, or the last there is. */
export async function diskOf(directory: string): Promise<number> {
  const image = await readManifest(directory).catch(() => undefined) // a damaged image takes nothing from the disks
  return image?.disk ?? lastDisk(directory)
}

/** Removes an image, or what a broken save left of one. When the disk is written again, no loss of power brings the image back. Idempotent. */
export async function removeImage(directory: string): Promise<void> {
  if (await removeFile(path.join(directory, manifestFile))) await syncDirectory(directory)
  for (const name of parts) await removeFile(path.join(directory, name))
  for (const name of [vmmFiles.saving, vmmFiles.restoring]) await rm(path.join(directory, name), { recursive: true, force: true })
}

/**
 * Completes what the VMM wrote of its memory. A process that was restored on demand writes the pages alone that its guest has asked for since, among them all that it changed: they go over those of
 * the memory that it was restored from. Returns the bytes that the memory takes on disk.
 */
export async function completeMemory(directory: string, written: string, signal: AbortSignal): Promise<number> {
  const [file, base] = [path.join(written, snapshotParts.memory), path.join(directory, vmmFiles.base)]
  if (sizeOf(base) === undefined) return punchZeros(file, signal)
  const asked = `${file}.tmp`
  await rename(file, asked)
  await copyPayload(base, file, { signal, durable: false })
  await writeOver(file, asked, signal)
  await rm(asked)
  return statSync(file).blocks * 512
}

/** Removes an image together with disks that were made over its own: where no process runs, they are what a start that failed has left. */
export async function discardImage(directory: string): Promise<void> {
  const image = await readManifest(directory).catch(() => undefined) // a damaged one goes all the same
  if (image !== undefined) await removeDisks(directory, (number) => number > image.disk)
  await removeImage(directory)
  await removeFile(path.join(directory, vmmFiles.base))
}

/** After a machine that was restored from the image runs on the last disk: that one is on disk before the image and its disk go. */
export async function consumeImage(directory: string): Promise<void> {
  const last = await lastDisk(directory)
  await syncDisk(directory, last)
  await removeImage(directory)
  await keepDisk(directory, last)
}
