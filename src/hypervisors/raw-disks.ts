// The writable system disk of machines that take raw images only: `disk-<n>.raw` in the machine's directory. The last one is the disk. It may be written only while it
// has one hard link: a disk that others link to, or that belongs to a memory image, is immutable, and the next start writes to a copy of it under the next number.
// Copies share their blocks where the filesystem can (reflink, clonefile), and copy the data extents elsewhere. Not for drivers with layers of their own (qemu/).

import { link, lstat, open, readdir, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { copyPayload } from '../files/copy.ts'
import type { DataLayout } from '../files/layout.ts'
import { partsBehind } from '../files/disk-parts.ts'
import { formatStretch, linkFilesystem } from '../files/empty-filesystem.ts'
import { createStaged, removeFile, syncDirectory, syncFile } from '../files/stage.ts'
import { diskErrors } from '../platform/disk-error.ts'
import type { AddedParts, DiskPart } from './driver.ts'

export function diskName(number: number): string {
  return `disk-${number}.raw`
}

/** Number of a disk by its file's name; undefined for other files. */
export function diskNumber(name: string): number | undefined {
  const match = /^disk-(0|[1-9]\d*)\.raw$/.exec(name)
  return match === null ? undefined : Number(match[1])
}

/** Number of the last disk; an error if the directory has none. */
export async function lastDisk(directory: string): Promise<number> {
  const numbers = (await readdir(directory)).map(diskNumber).filter((number) => number !== undefined)
  if (numbers.length === 0) throw new HypemanError('conflict', `the disk in ${directory} is missing; delete the instance`)
  return Math.max(...numbers)
}

/** Links an empty ext4 of that size into a staged directory: the first start writes to a copy of it. */
export function createDisk(layout: DataLayout, directory: string, sizeBytes: number): Promise<void> {
  return linkFilesystem(layout, sizeBytes, path.join(directory, diskName(0)))
}

/** Makes sure that the last disk may be written by a new process, and is the only one; durably. Returns its number. */
export async function ownDisk(directory: string, signal: AbortSignal): Promise<number> {
  const last = await lastDisk(directory)
  const { nlink } = await lstat(path.join(directory, diskName(last)))
  const own = nlink === 1 ? last : await diskOver(directory, last, signal)
  await keepDisk(directory, own)
  return own
}

/** Drops all disks but one, which is on disk before they go, and before `forget` has the image go that one of them belongs to. */
export async function keepDisk(directory: string, kept: number, forget?: () => Promise<void>): Promise<void> {
  if ((await readdir(directory)).some((name) => (diskNumber(name) ?? kept) !== kept)) await syncDisk(directory, kept)
  await forget?.()
  await removeDisks(directory, (number) => number !== kept)
}

async function syncDisk(directory: string, number: number): Promise<void> {
  await syncFile(path.join(directory, diskName(number)))
  await syncDirectory(directory)
}

/** True if a disk lies below one: that of the image which the machine of the latter was started from. */
export async function isDiskBelow(directory: string, number: number): Promise<boolean> {
  return (await readdir(directory)).some((name) => (diskNumber(name) ?? number) < number)
}

/**
 * In the directory of an image, where no process runs: gives up what a start from the image has made. The image's own disk is the lowest, since a machine is saved beside no other. `disk` is its
 * number, if the image can tell it.
 */
export async function dropDisksAbove(directory: string, disk?: number): Promise<void> {
  const numbers = (await readdir(directory)).map(diskNumber).filter((number) => number !== undefined)
  const lowest = disk ?? Math.min(...numbers)
  await removeDisks(directory, (number) => number > lowest)
}

/** After a machine that was restored from an image runs on the last disk: that one is on disk before `forget` has the image go, and the image's own disk goes last. */
export async function consumeDisk(directory: string, forget: () => Promise<void>): Promise<void> {
  const last = await lastDisk(directory)
  await syncDisk(directory, last)
  await forget()
  await removeDisks(directory, (number) => number !== last)
}

/** Makes a disk with the contents of disk `below`, which stays as it is; what lies above is removed first. Returns its number. Not durable. */
export async function diskOver(directory: string, below: number, signal: AbortSignal): Promise<number> {
  await removeDisks(directory, (number) => number > below)
  await copyDisk(directory, below, directory, below + 1, signal)
  return below + 1
}

/** Copies a disk that nobody writes to meanwhile. Whole when it returns, and not there when it throws; a commit of what it belongs to, or `keepDisk`, makes it durable. */
export async function copyDisk(from: string, number: number, to: string, as: number, signal: AbortSignal): Promise<void> {
  // A killed server leaves half a copy under this name alone, which is no disk's.
  const unfinished = path.join(to, `${diskName(as)}.tmp`)
  await rm(unfinished, { force: true })
  await copyPayload(path.join(from, diskName(number)), unfinished, { signal, durable: false })
  await rename(unfinished, path.join(to, diskName(as)))
}

export async function removeDisks(directory: string, unwanted: (number: number) => boolean): Promise<void> {
  for (const name of await readdir(directory)) {
    const number = diskNumber(name)
    if (number !== undefined && unwanted(number)) await removeFile(path.join(directory, name))
  }
}

/** Links a disk into a directory. It is immutable from then on. */
export async function linkDisk(directory: string, number: number, target: string): Promise<void> {
  await link(path.join(directory, diskName(number)), path.join(target, diskName(number)))
}

/** File systems of their own behind the end of the last disk of a machine that does not run. */
export async function addDiskParts(layout: DataLayout, directory: string, sizes: readonly number[]): Promise<AddedParts> {
  const { size } = await lstat(path.join(directory, diskName(await lastDisk(directory))))
  const { parts, endBytes } = partsBehind(size, sizes)
  const longer = await lengthen(layout, directory, endBytes, parts)
  return { parts, [Symbol.asyncDispose]: () => longer[Symbol.asyncDispose]() }
}

/** Makes the last disk of a machine that does not run that long, unless it is already. */
export async function growDisk(layout: DataLayout, directory: string, sizeBytes: number): Promise<AsyncDisposable> {
  const { size } = await lstat(path.join(directory, diskName(await lastDisk(directory))))
  return size >= sizeBytes ? new AsyncDisposableStack() : lengthen(layout, directory, sizeBytes, [])
}

/** In a copy that is renamed into the directory whole: a process that is killed leaves nothing there. Disposing removes it. */
async function lengthen(layout: DataLayout, directory: string, endBytes: number, parts: readonly DiskPart[]): Promise<AsyncDisposable> {
  const below = await lastDisk(directory)
  const longer = path.join(directory, diskName(below + 1))
  await using staged = await createStaged(layout, `disk-${process.hrtime.bigint()}`)
  await copyDisk(directory, below, staged.path, below + 1, new AbortController().signal)
  const file = path.join(staged.path, diskName(below + 1))
  await diskErrors(file, async () => {
    await using disk = await open(file, 'r+')
    await disk.truncate(endBytes)
  })
  for (const part of parts) await diskErrors(file, () => formatStretch(file, part))
  await diskErrors(longer, async () => {
    await syncFile(file)
    await rename(file, longer)
    await syncDirectory(directory)
  })
  return {
    async [Symbol.asyncDispose]() {
      await rm(longer, { force: true })
      await syncDirectory(directory)
    },
  }
}

/** Gives a disk of a directory or payload as one file. */
export async function exportDisk(directory: string, number: number, file: string, signal: AbortSignal): Promise<void> {
  await exportRawFile(path.join(directory, diskName(number)), file, signal)
}

/** By a link within the file system, since nobody writes to a file that has another name; else as a copy, which the commit of what it belongs to makes durable. */
export async function exportRawFile(disk: string, file: string, signal: AbortSignal): Promise<void> {
  try {
    await diskErrors(file, () => link(disk, file))
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EXDEV')) throw error
    await copyPayload(disk, file, { signal, durable: false })
  }
}

/** Makes a raw file the only disk of a staged directory. */
export async function importDisk(directory: string, file: string): Promise<void> {
  await diskErrors(directory, () => rename(file, path.join(directory, diskName(0))))
}
