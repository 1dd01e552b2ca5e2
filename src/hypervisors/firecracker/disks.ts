// The writable system disk: `disk.raw` is what a machine writes to, `disk.frozen` the disk of a memory image's or a payload's instant. The name of the first is a part of Firecracker's state, so
// that it is the same in every directory (others number their disks, ../raw-disks.ts).
// Nobody writes to a frozen disk, nor to a file that has another link: a machine gets a copy first, which shares the blocks where the file system can.

import { existsSync, statSync } from 'node:fs'
import { link, lstat, open, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { copyPayload, type CopyOptions } from '../../files/copy.ts'
import { partsBehind } from '../../files/disk-parts.ts'
import { formatStretch, linkFilesystem } from '../../files/empty-filesystem.ts'
import type { DataLayout } from '../../files/layout.ts'
import { removeFile, syncDirectory, syncFile } from '../../files/stage.ts'
import { isMissing } from '../../files/tree.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import type { AddedParts } from '../driver.ts'
import { exportRawFile } from '../raw-disks.ts'
import { diskFiles, memoryFiles } from './files.ts'

/** A copy in the making. */
const unfinished = 'disk.tmp'

/** An empty disk in a staged directory. */
export function createRawDisk(layout: DataLayout, directory: string, sizeBytes: number): Promise<void> {
  return linkFilesystem(layout, sizeBytes, path.join(directory, diskFiles.live))
}

/** Makes sure that the disk is nobody else's, durably, so that a machine may write to it. */
export async function ownDisk(directory: string, signal: AbortSignal): Promise<void> {
  if (sizeAndLinks(directory).links === 1) return
  await replaceDisk(directory, diskFiles.live, { durable: true, signal })
  await syncDirectory(directory)
}

/** Makes the disk a copy of the frozen one. Not durable: `syncThawed` makes it so before the frozen one goes. */
export async function thawDisk(directory: string, signal: AbortSignal): Promise<void> {
  await replaceDisk(directory, diskFiles.frozen, { durable: false, signal })
}

async function replaceDisk(directory: string, source: string, options: CopyOptions): Promise<void> {
  const copy = path.join(directory, unfinished)
  await rm(copy, { force: true })
  await copyPayload(path.join(directory, source), copy, options)
  await rename(copy, path.join(directory, diskFiles.live))
}

/** Makes a disk durable that was copied from the frozen one, and what was written to it since. */
export async function syncThawed(directory: string): Promise<void> {
  const live = path.join(directory, diskFiles.live)
  if (!existsSync(live) || (await isFrozenInPlace(directory))) return
  await syncFile(live)
  await syncDirectory(directory)
}

/** The file with what the disk of a directory or payload holds. Beside a live disk the frozen one counts with its image alone: the removal of that may have been cut off. */
function diskOf(directory: string): string {
  const [live, frozen] = [path.join(directory, diskFiles.live), path.join(directory, diskFiles.frozen)]
  return existsSync(path.join(directory, memoryFiles.manifest)) || !existsSync(live) ? frozen : live
}

/** Links the disk into a payload. */
export async function linkFrozen(directory: string, payload: string): Promise<void> {
  await diskErrors(payload, () => link(diskOf(directory), path.join(payload, diskFiles.frozen)))
}

/** The disk of a machine that stands still is frozen where it is: a second name for it. */
export async function freezeDisk(directory: string): Promise<void> {
  await removeFile(path.join(directory, diskFiles.frozen))
  await diskErrors(directory, () => link(path.join(directory, diskFiles.live), path.join(directory, diskFiles.frozen)))
}

/** True if the machine of a directory wrote to the disk that is frozen there, and not to a copy of it. */
export async function isFrozenInPlace(directory: string): Promise<boolean> {
  const inode = async (name: string): Promise<number | undefined> =>
    lstat(path.join(directory, name)).then(
      ({ ino }) => ino,
      (error: unknown) => {
        if (isMissing(error)) return undefined
        throw error
      },
    )
  const frozen = await inode(diskFiles.frozen)
  return frozen !== undefined && frozen === (await inode(diskFiles.live))
}

/** The frozen disk is the disk again: what a machine that went on from it has written is given up. Durable; no process may run. */
export async function takeBackFrozen(directory: string): Promise<void> {
  if (!existsSync(path.join(directory, diskFiles.frozen)) || (await isFrozenInPlace(directory))) return
  const name = path.join(directory, unfinished)
  await rm(name, { force: true })
  await diskErrors(directory, async () => {
    await link(path.join(directory, diskFiles.frozen), name)
    await rename(name, path.join(directory, diskFiles.live))
    await syncDirectory(directory)
  })
}

/** Gives the frozen disk up: what the machine wrote to is the disk. */
export async function dropFrozen(directory: string): Promise<void> {
  if (statSync(path.join(directory, diskFiles.live), { throwIfNoEntry: false }) === undefined) return
  await removeFile(path.join(directory, diskFiles.frozen))
}

/** Links a payload's disk into a staged instance directory; with `asFrozen` as that of a memory image, too. */
export async function linkDisk(payload: string, directory: string, asFrozen: boolean): Promise<void> {
  await diskErrors(directory, async () => {
    for (const name of asFrozen ? [diskFiles.frozen, diskFiles.live] : [diskFiles.live])
      await link(path.join(payload, diskFiles.frozen), path.join(directory, name))
  })
}

export async function exportRawDisk(directory: string, file: string, signal: AbortSignal): Promise<void> {
  await exportRawFile(diskOf(directory), file, signal)
}

export async function importRawDisk(directory: string, file: string): Promise<void> {
  await diskErrors(directory, () => rename(file, path.join(directory, diskFiles.live)))
}

/** Makes the disk longer by an empty ext4 for each size, durably. One that is cut off leaves a disk that is longer, behind what its guest uses. */
export async function addRawParts(directory: string, sizes: readonly number[]): Promise<AddedParts> {
  await ownDisk(directory, new AbortController().signal)
  const disk = path.join(directory, diskFiles.live)
  const { bytes } = sizeAndLinks(directory)
  const { parts, endBytes } = partsBehind(bytes, sizes)
  await using undo = new AsyncDisposableStack()
  const shorten = async (): Promise<void> => resize(disk, bytes)
  undo.defer(shorten)
  await resize(disk, endBytes)
  for (const part of parts) await diskErrors(disk, () => formatStretch(disk, part))
  await syncFile(disk)
  undo.move()
  return { parts, [Symbol.asyncDispose]: shorten }
}

/** Makes the disk that long, durably, unless it is already. */
export async function growRawDisk(directory: string, sizeBytes: number): Promise<AsyncDisposable> {
  const { bytes } = sizeAndLinks(directory)
  if (bytes >= sizeBytes) return new AsyncDisposableStack()
  await ownDisk(directory, new AbortController().signal)
  const disk = path.join(directory, diskFiles.live)
  await resize(disk, sizeBytes)
  return { [Symbol.asyncDispose]: () => resize(disk, bytes) }
}

async function resize(file: string, bytes: number): Promise<void> {
  await diskErrors(file, async () => {
    await using handle = await open(file, 'r+')
    await handle.truncate(bytes)
    await handle.sync()
  })
}

function sizeAndLinks(directory: string): { readonly bytes: number; readonly links: number } {
  const stats = statSync(path.join(directory, diskFiles.live), { throwIfNoEntry: false })
  if (stats === undefined) throw new HypemanError('conflict', `the disk in ${directory} is missing; delete the instance`)
  return { bytes: stats.size, links: stats.nlink }
}
