// How things come to be on disk and go: staged, synced, renamed into place; renamed into the trash, then removed. Nothing is ever half there.
// Not for copying payloads (a driver's work) nor for reading records (each resource's store).

import { randomBytes } from 'node:crypto'
import { close, closeSync, constants, fsync, lstatSync, openSync, readdirSync } from 'node:fs'
import { lstat, mkdir, open, readdir, rename, rm, stat, unlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { diskError, diskErrors } from '../platform/disk-error.ts'
import type { DataLayout } from './layout.ts'
import { recordText } from './record-text.ts'
import { isMissing } from './tree.ts'

/** A directory in the making. Disposing removes it, unless it was committed; what then can't be removed is a warning of the process's, as of `moveToTrash`. */
export interface StagedDirectory extends AsyncDisposable {
  readonly path: string
  /** Syncs everything in it, renames it to `final`, which must not exist, and syncs the parent. When this returns it outlasts a power loss. */
  commit(final: string): Promise<void>
}

/** Makes the directories that everything else is staged in or committed to. The data directory itself may be a link, what is in it not. */
export async function makeDataDirectories(layout: DataLayout): Promise<void> {
  const present = await stat(layout.root).catch((error: unknown) => {
    if (isMissing(error)) return undefined
    throw error
  })
  if (present?.isDirectory() === false)
    throw new HypemanError(
      'storage_unsuitable',
      `the data directory ${layout.root} is no directory; choose another with --data-dir (DATA_DIR)`,
    )
  await mayWrite(layout.root, () => makePath(layout.root))
  const { dev } = await stat(layout.root)
  for (const directory of partsOf(layout)) {
    await makeOwnDirectory(directory)
    // Renames and hard links end at a filesystem's border: every commit would fail.
    if ((await lstat(directory)).dev !== dev)
      throw new HypemanError(
        'storage_unsuitable',
        `${directory} is another filesystem than ${layout.root}; the data directory must be one: move it there whole`,
      )
  }
}

/** The data directory's own directories, parents first: they hold what comes and goes. */
function partsOf(layout: DataLayout): readonly string[] {
  return [
    layout.staging,
    layout.trash,
    layout.instances,
    layout.snapshots,
    layout.images,
    layout.imageReferences,
    layout.imageRootfs,
    layout.registry,
    layout.volumes,
    layout.kernels,
    layout.templates,
    layout.schedules,
    layout.pushes,
    layout.cache,
    layout.logs,
  ]
}

/** Makes a directory of the server's own, durably, if it is not there. A link is refused: what it leads to may be anybody's, and is swept and deleted from. */
export async function makeOwnDirectory(directory: string): Promise<void> {
  await mayWrite(directory, async () => {
    const present = await lstat(directory).catch((error: unknown) => {
      if (isMissing(error)) return undefined
      throw error
    })
    if (present === undefined) await makeSynced(directory)
    else if (!present.isDirectory())
      throw new HypemanError(
        'storage_unsuitable',
        `${directory} is ${present.isSymbolicLink() ? 'a link' : 'no directory'}; put a directory there (to keep all on another disk, make the data directory itself the link)`,
      )
  })
}

/** As mkdir with `recursive`, which says ENOENT where the filesystem is read-only (Node 26). */
async function makePath(directory: string): Promise<void> {
  try {
    await makeSynced(directory)
  } catch (error) {
    if (!isMissing(error)) {
      if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return
      throw error
    }
    await makePath(path.dirname(directory))
    await makePath(directory)
  }
}

async function makeSynced(directory: string): Promise<void> {
  await mkdir(directory, { mode: 0o700 })
  await syncDirectory(path.dirname(directory))
}

/** As `diskErrors`, at the start of the server: there, what this user may not write is the data directory. */
async function mayWrite(where: string, act: () => Promise<unknown>): Promise<void> {
  try {
    await diskErrors(where, act)
  } catch (cause) {
    if (!(cause instanceof Error && 'code' in cause && (cause.code === 'EACCES' || cause.code === 'EPERM'))) throw cause
    throw new HypemanError(
      'storage_unsuitable',
      `this user can't write ${where}; choose another data directory with --data-dir (DATA_DIR)`,
      { cause },
    )
  }
}

/** Makes a new directory in the staging area. The name is part of its path; it must be unique among what is staged. */
export async function createStaged(layout: DataLayout, name: string): Promise<StagedDirectory> {
  const staged = path.join(layout.staging, name)
  await diskErrors(staged, () => mkdir(staged, { mode: 0o700 }))
  let committed = false
  return {
    path: staged,
    async commit(final) {
      await diskErrors(final, async () => {
        await syncTree(staged)
        refuseExisting(final)
        await rename(staged, final)
        committed = true
        try {
          await Promise.all([syncDirectory(path.dirname(final)), syncDirectory(layout.staging)])
        } catch (error) {
          // Whoever is told that it failed must not find it there: it goes back, and disposing removes it.
          await rename(final, staged)
          committed = false
          throw error
        }
      })
    },
    async [Symbol.asyncDispose]() {
      if (!committed) await removeUnseen(staged, staged)
    },
  }
}

/**
 * Replaces or makes a JSON file, durably: whoever reads it sees the old or the new value whole. `before` is the old value, null if there
 * was none: it is back when this throws.
 */
export async function writeRecord(file: string, value: object, before: object | null): Promise<void> {
  await diskErrors(file, async () => {
    await replaceFile(file, recordText(value))
    try {
      await syncDirectory(path.dirname(file))
    } catch (error) {
      await (before === null ? rm(file, { force: true }) : replaceFile(file, recordText(before)))
      throw error
    }
  })
}

async function replaceFile(file: string, text: string): Promise<void> {
  const temporary = `${file}.${randomBytes(6).toString('hex')}.tmp`
  try {
    await writeSynced(temporary, text)
    await rename(temporary, file)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
}

async function writeSynced(file: string, text: string): Promise<void> {
  await using handle = await open(file, 'wx', 0o600)
  await handle.writeFile(text)
  await handle.sync()
}

/** Writes a new JSON file into a staged directory, whose commit makes it durable. */
export async function stageRecord(file: string, value: object): Promise<void> {
  await diskErrors(file, () => writeFile(file, recordText(value), { flag: 'wx', mode: 0o600 }))
}

/**
 * Removes a file or directory: first a rename makes it invisible, durably, then its contents go. Never follows links. A missing path is no error.
 * When it throws, the path is as it was. What then can't be removed from the trash is a warning of the process's: the next start sweeps it.
 */
export async function moveToTrash(layout: DataLayout, target: string): Promise<void> {
  refuseToRemove(layout, path.resolve(target))
  const grave = path.join(layout.trash, `${path.basename(target)}-${randomBytes(6).toString('hex')}`)
  try {
    await rename(target, grave)
  } catch (error) {
    if (isMissing(error)) return
    throw error
  }
  try {
    await syncDirectory(path.dirname(target))
  } catch (error) {
    await rename(grave, target)
    throw diskError(target, error)
  }
  await removeUnseen(grave, target)
}

/** Removes what no list shows. That it can't be is no failure of what it was for: it is a warning of the process's, and the next start sweeps it. */
async function removeUnseen(place: string, was: string): Promise<void> {
  try {
    await rm(place, { recursive: true, force: true })
  } catch (error) {
    process.emitWarning(`${was} is removed, but still takes room as ${place} until the server starts again: ${String(error)}`)
  }
}

/** What is removed lies in the data directory, and is neither a part of it nor holds one. */
function refuseToRemove(layout: DataLayout, target: string): void {
  if (!target.startsWith(`${layout.root}${path.sep}`)) throw new Error(`${target} is outside the data directory ${layout.root}`)
  if (partsOf(layout).some((directory) => `${directory}${path.sep}`.startsWith(`${target}${path.sep}`)))
    throw new Error(`${target} is a part of the data directory itself and is not removed`)
}

/** Removes what a killed process left of records that it was writing in a directory. */
export async function removeUnfinishedRecords(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true }))
    if (entry.isFile() && /\.json\.[0-9a-f]{12}\.tmp$/.test(entry.name)) await rm(path.join(directory, entry.name), { force: true })
}

export interface Swept {
  /** Names of what is gone. */
  readonly swept: readonly string[]
  /** What could not be removed, and why; it is in nobody's way. */
  readonly left: readonly { readonly path: string; readonly reason: string }[]
}

/** At start: removes what an earlier run left staged or half removed, but for what is `spared`. */
export async function sweep(layout: DataLayout, spared: ReadonlySet<string> = new Set()): Promise<Swept> {
  const swept: string[] = []
  const left: { path: string; reason: string }[] = []
  for (const directory of [layout.staging, layout.trash])
    for (const name of await readdir(directory)) {
      if (directory === layout.staging && spared.has(name)) continue
      try {
        await rm(path.join(directory, name), { recursive: true, force: true })
        swept.push(name)
      } catch (error) {
        left.push({ path: path.join(directory, name), reason: String(error) })
      }
    }
  return { swept, left }
}

/** Files synced at a time: the kernel makes one journal commit of what is asked for together. */
const SYNCS_AT_ONCE = 8

/** Syncs every regular file and directory of a tree, contents first. A file that is on disk already costs the same however large it is. */
export async function syncTree(directory: string): Promise<void> {
  const contents: (() => Promise<void>)[] = []
  for (const entry of readdirSync(directory, { withFileTypes: true })) {
    const at = path.join(directory, entry.name)
    if (entry.isDirectory()) contents.push(() => syncTree(at))
    else if (entry.isFile()) contents.push(() => syncFile(at))
  }
  for (let at = 0; at < contents.length; at += SYNCS_AT_ONCE)
    await Promise.all(contents.slice(at, at + SYNCS_AT_ONCE).map((sync) => sync()))
  await syncDirectory(directory)
}

/** Syncs the names in a directory. */
export async function syncDirectory(directory: string): Promise<void> {
  await syncFile(directory)
}

/** Syncs a file's contents; its name is its directory's. Only that waits for the disk, so only that is left to Node's threads, which cost more than opening and closing. */
export async function syncFile(file: string): Promise<void> {
  const fd = openSync(file, 'r')
  try {
    await new Promise<void>((resolve, reject) => fsync(fd, (error) => (error === null ? resolve() : reject(error))))
  } finally {
    closeSync(fd)
  }
}

/** From so many bytes on, giving a file's room back takes longer than anybody should wait: restores of a guest with 256 MB waited 50 ms for that of their memory's image (ext4, November 2026). */
const LARGE_BYTES = 16 * 1024 ** 2

/** Removes a file; that there is none is no error. Returns whether there was one. The room of a large one may be free a moment later. */
export async function removeFile(file: string): Promise<boolean> {
  const seen = lstatSync(file, { throwIfNoEntry: false })
  if (seen === undefined) return false
  using _open = seen.isFile() && seen.size >= LARGE_BYTES ? keptOpen(file) : undefined
  try {
    await unlink(file)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

/** A file without a name keeps its room until the last who has it open closes it: here nobody waits for that. Undefined if it can't be read, which is no reason not to remove it. */
function keptOpen(file: string): Disposable | undefined {
  try {
    const fd = openSync(file, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
    // Nothing was written by this, so there is nothing that closing it could lose.
    return { [Symbol.dispose]: () => close(fd, () => undefined) }
  } catch {
    return undefined
  }
}

function refuseExisting(final: string): void {
  // rename(2) replaces an empty directory silently; a committed name is never taken over.
  if (lstatSync(final, { throwIfNoEntry: false }) !== undefined) throw new Error(`${final} exists already`)
}
