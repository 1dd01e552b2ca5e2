// The stand-in's files in an instance's directory or a payload:
//   disk-<n>.raw       sparse; the last one is the disk, and may be written only while it has one hard link
//   memory-<n>.image   guest memory of the instant at which disk n was frozen; immutable, shared by hard link
//   memory.json        names the image; written last and removed first, so an image exists if and only if it does

import { link, readdir, readFile, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../../src/api/errors.ts'
import { copyPayload } from '../../../src/files/copy.ts'
import { stageRecord, syncDirectory, syncFile, writeRecord } from '../../../src/files/stage.ts'
import type { FilePart } from '../../../src/hypervisors/driver.ts'
import { isMissing } from '../../../src/files/tree.ts'
import type { ProcessIdentity } from '../../../src/platform/process.ts'

const manifestFile = 'memory.json'
const imagePattern = /^memory-\d+\.image$/

const manifest = z
  .object({
    /** Number of the disk that goes with the image. */
    disk: z.int(),
    /** The process that wrote it into its own directory; null in what was copied. */
    savedBy: z.object({ pid: z.int(), startTicks: z.string(), bootId: z.string() }).nullable(),
  })
  .readonly()

export type Manifest = z.infer<typeof manifest>

export function diskName(number: number): string {
  return `disk-${number}.raw`
}

export function imageName(number: number): string {
  return `memory-${number}.image`
}

export function diskNumber(name: string): number | undefined {
  const match = /^disk-(\d+)\.raw$/.exec(name)
  return match === null ? undefined : Number(match[1])
}

export function partOf(name: string): FilePart | undefined {
  if (name === manifestFile) return 'state'
  if (imagePattern.test(name)) return 'memory'
  return diskNumber(name) === undefined ? undefined : 'disk'
}

/** Of a file's name: memory of a guest, compressed or not. */
export function isStandInMemory(name: string): boolean {
  return /^memory-\d+\.image(\.zst|\.lz4)?$/.test(name)
}

/** The manifest of a complete image, or undefined. */
export async function readManifest(directory: string): Promise<Manifest | undefined> {
  try {
    return manifest.parse(JSON.parse(await readFile(path.join(directory, manifestFile), 'utf8')))
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

export async function demandManifest(directory: string): Promise<Manifest> {
  const found = await readManifest(directory)
  if (found !== undefined) return found
  throw new HypemanError('invalid_state', `there is no memory image in ${directory}`)
}

/** Completes an image that a process has written into its own directory. When this returns it outlasts a power loss. */
export async function completeImage(directory: string, disk: number, savedBy: ProcessIdentity): Promise<void> {
  await Promise.all([imageName(disk), diskName(disk)].map((name) => syncFile(path.join(directory, name))))
  await syncDirectory(directory)
  await writeRecord(path.join(directory, manifestFile), { disk, savedBy } satisfies Manifest, null)
}

/** Completes an image in a staged directory. */
export async function stageManifest(directory: string, disk: number): Promise<void> {
  await stageRecord(path.join(directory, manifestFile), { disk, savedBy: null } satisfies Manifest)
}

/** Removes an image, or what a broken save left of one; durably, before its disk is written again. Idempotent. */
export async function removeImage(directory: string): Promise<void> {
  if ((await readManifest(directory)) !== undefined) {
    await rm(path.join(directory, manifestFile))
    await syncDirectory(directory)
  }
  for (const name of await readdir(directory)) if (imagePattern.test(name)) await rm(path.join(directory, name))
}

/** Number of the disk of what is frozen or stopped here. */
export async function diskOf(directory: string): Promise<number> {
  return (await readManifest(directory))?.disk ?? lastDisk(directory)
}

async function lastDisk(directory: string): Promise<number> {
  const numbers = (await readdir(directory)).map(diskNumber).filter((number) => number !== undefined)
  if (numbers.length === 0) throw new HypemanError('conflict', `the disk in ${directory} is missing; delete the instance`)
  return Math.max(...numbers)
}

/** Makes sure that the last disk may be written by a new process, and is the only one. Returns its number. */
export async function ownDisk(directory: string): Promise<number> {
  const last = await lastDisk(directory)
  const { nlink } = await stat(path.join(directory, diskName(last)))
  const own = nlink === 1 ? last : await diskOver(directory, last)
  await removeDisks(directory, (number) => number !== own)
  return own
}

/** Makes a fresh disk with the content of disk `below`, which stays as it is; everything above that is removed. Returns its number. */
export async function diskOver(directory: string, below: number): Promise<number> {
  await removeDisks(directory, (number) => number > below)
  await copyPayload(path.join(directory, diskName(below)), path.join(directory, diskName(below + 1)))
  return below + 1
}

/** Removes all disks but the last: nothing needs them once the image that froze them is gone. */
export async function removeFrozenDisks(directory: string): Promise<void> {
  const last = await lastDisk(directory)
  await removeDisks(directory, (number) => number !== last)
}

export async function removeDisks(directory: string, unwanted: (number: number) => boolean): Promise<void> {
  for (const name of await readdir(directory)) {
    const number = diskNumber(name)
    if (number !== undefined && unwanted(number)) await rm(path.join(directory, name))
  }
}

/** Links the frozen disk, and the image if asked for, into another directory. */
export async function linkFrozen(directory: string, target: string, withMemory: boolean): Promise<void> {
  const disk = withMemory ? (await demandManifest(directory)).disk : await diskOf(directory)
  const names = [diskName(disk), ...(withMemory ? [imageName(disk)] : [])]
  await Promise.all(names.map((name) => link(path.join(directory, name), path.join(target, name))))
  if (withMemory) await stageManifest(target, disk)
}
