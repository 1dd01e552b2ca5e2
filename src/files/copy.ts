// The one way to copy a file or a guest's directory: by reflink, else extent by extent; never dense. A copy is whole and on disk when the call
// returns, and not there when it throws. A server that dies leaves half a copy: copy into staged directories (stage.ts).

import { constants, type Stats } from 'node:fs'
import { chmod, lstat, mkdir, open, opendir, rm } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { cloneFile } from './clone.ts'
import { copyInThread, type Watch } from './copy-job.ts'
import { copySmall } from './copy-small.ts'
import { isOfRun } from './layout.ts'
import { syncDirectory, syncFile, syncTree } from './stage.ts'
import { diskErrors } from '../platform/disk-error.ts'

/** Up to so much data, starting the thread that copies costs more than it saves. */
const SMALL_BYTES = 32 * 1024 ** 2

/** Data to copy, in bytes; holes don't count. */
export interface CopyProgress {
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface CopyOptions {
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: CopyProgress) => void
  /** False leaves the syncing to the commit of the staged directory that the copy is made in. */
  readonly durable?: boolean
}

export interface CopyReport {
  readonly files: number
  /** Of these, those that share their blocks with their source. */
  readonly clonedFiles: number
}

/**
 * Copies a regular file, or a directory without what belongs to a run of its machine (`isOfRun`, sockets, pipes). `target` must not exist.
 * Nobody may write to the source meanwhile. Links are an error. A filesystem without holes is `storage_unsuitable`, a full one `storage_full`.
 */
export async function copyPayload(source: string, target: string, options: CopyOptions = {}): Promise<CopyReport> {
  options.signal?.throwIfAborted()
  const plan = await planOf(source)
  return diskErrors(target, async () => {
    await using undo = new AsyncDisposableStack()
    for (const directory of plan.directories) {
      await mkdir(path.join(target, directory), { mode: 0o700 })
      if (directory === '') undo.defer(() => rm(target, { recursive: true, force: true }))
    }
    const clonedFiles = await copyFiles(source, target, plan, options)
    if (plan.directories.length === 0) undo.defer(() => rm(target, { force: true }))
    if (options.durable !== false) {
      await (plan.directories.length === 0 ? syncFile(target) : syncTree(target))
      await syncDirectory(path.dirname(target))
      options.signal?.throwIfAborted()
    }
    undo.move()
    return { files: plan.files.length, clonedFiles }
  })
}

/** What to copy, by paths relative to the source; the source itself is ''. Directories come before what is in them. */
interface Plan {
  readonly directories: string[]
  readonly files: { readonly name: string; readonly bytes: number }[]
}

async function planOf(source: string): Promise<Plan> {
  const plan: Plan = { directories: [], files: [] }
  const stats = await lstat(source)
  if (stats.isDirectory()) await planDirectory(source, '', plan)
  else if (stats.isFile()) plan.files.push({ name: '', bytes: dataBytes(stats) })
  else throw new HypemanError('conflict', `${source} is neither a file nor a directory; it can't be copied`)
  return plan
}

async function planDirectory(source: string, directory: string, plan: Plan): Promise<void> {
  plan.directories.push(directory)
  for await (const entry of await opendir(path.join(source, directory))) {
    if (isOfRun(entry.name)) continue
    const name = path.join(directory, entry.name)
    if (entry.isDirectory()) await planDirectory(source, name, plan)
    else if (entry.isFile()) plan.files.push({ name, bytes: dataBytes(await lstat(path.join(source, name))) })
    else if (entry.isSymbolicLink())
      throw new HypemanError('conflict', `${path.join(source, name)} is a link; what is copied consists of files and directories`)
  }
}

function dataBytes({ size, blocks }: Stats): number {
  return Math.min(size, blocks * 512)
}

/** Returns how many were cloned. */
async function copyFiles(source: string, target: string, plan: Plan, { signal, onProgress }: CopyOptions): Promise<number> {
  const totalBytes = plan.files.reduce((sum, { bytes }) => sum + bytes, 0)
  let [doneBytes, cloned] = [0, 0]
  for (const { name, bytes } of plan.files) {
    const end = doneBytes + bytes
    const copied = (more: number): void => {
      doneBytes = Math.min(doneBytes + more, end)
      onProgress?.({ doneBytes, totalBytes })
    }
    signal?.throwIfAborted()
    if (await copyFile(path.join(source, name), path.join(target, name), { signal, copied })) cloned += 1
    copied(end - doneBytes)
  }
  return cloned
}

/** Returns true if the copy shares the source's blocks. Not yet on disk. */
async function copyFile(source: string, target: string, watch: Watch): Promise<boolean> {
  await using undo = new AsyncDisposableStack()
  const removeUnlessDone = (): void => undo.defer(() => rm(target, { force: true }))
  const cloned = await cloneFile(source, target)
  if (cloned) {
    removeUnlessDone()
    await chmod(target, 0o600)
  } else {
    await using from = await open(source, constants.O_RDONLY | constants.O_NOFOLLOW)
    await using to = await open(target, 'wx', 0o600)
    removeUnlessDone()
    const files = [
      { path: source, fd: from.fd, handle: from },
      { path: target, fd: to.fd, handle: to },
    ] as const
    await (dataBytes(await from.stat()) > SMALL_BYTES ? copyInThread : copySmall)(...files, watch)
  }
  watch.signal?.throwIfAborted()
  undo.move()
  return cloned
}
