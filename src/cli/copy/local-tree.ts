// Writes what comes from a guest, below one directory or as one file. A guest is not trusted: nothing is written outside, and nothing through a symbolic link
// that lies inside. Files appear whole or not at all.

import { randomUUID } from 'node:crypto'
import { createWriteStream, type Stats } from 'node:fs'
import { chmod, lchown, lstat, mkdir, rename, rm, symlink, utimes } from 'node:fs/promises'
import path from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { EntryOut } from '../../client/copy.ts'

export interface TreeOptions {
  /** Keep owner and group; needs the right to. */
  readonly owners: boolean
}

export class LocalTree {
  readonly #root: string
  readonly #options: TreeOptions
  /** Directories of ours that are known to be real ones. */
  readonly #sound = new Set<string>()
  /** Modes and times are set last: a read-only directory could not be filled, and filling it changes its time. */
  readonly #directories: { readonly at: string; readonly entry: EntryOut }[] = []

  /** `root` is a real path; what comes is written to it and below. */
  constructor(root: string, options: TreeOptions) {
    this.#root = root
    this.#options = options
  }

  /** `segments` is where the entry goes, from the root; none: it is the root. */
  async add(segments: readonly string[], entry: EntryOut, body: AsyncIterable<Buffer>): Promise<void> {
    const at = path.join(this.#root, ...segments.map((segment) => safeSegment(segment, entry.path)))
    if (segments.length > 0) await this.#makeParents(path.dirname(at))
    if (entry.kind === 'directory') return await this.#makeDirectory(at, entry)
    const before = await lookAt(at)
    if (before?.isDirectory() === true) throw new Error(`${at} is a directory; ${entry.path} is not, and does not replace it`)
    if (before !== undefined && !before.isFile() && !before.isSymbolicLink())
      throw new Error(`${at} is neither a file nor a link, and is left alone`)
    await this.#replace(at, entry, body)
  }

  /** Sets what had to wait until the directories were full. */
  async finish(): Promise<void> {
    for (const { at, entry } of this.#directories.reverse()) await this.#setFacts(at, entry)
  }

  async #makeParents(directory: string): Promise<void> {
    if (directory === this.#root || this.#sound.has(directory)) return
    const parent = path.dirname(directory)
    if (parent !== this.#root) await this.#makeParents(parent)
    await makeRealDirectory(directory)
    this.#sound.add(directory)
  }

  async #makeDirectory(at: string, entry: EntryOut): Promise<void> {
    await makeRealDirectory(at)
    this.#sound.add(at)
    this.#directories.push({ at, entry })
  }

  async #replace(at: string, entry: EntryOut, body: AsyncIterable<Buffer>): Promise<void> {
    const staged = path.join(path.dirname(at), `.hypeman-cp-${randomUUID()}`)
    try {
      if (entry.kind === 'symlink') {
        await symlink(entry.linkTarget, staged)
        if (this.#options.owners) await lchown(staged, entry.uid, entry.gid)
      } else {
        await pipeline(body, createWriteStream(staged, { flags: 'wx', mode: 0o600 }))
        await this.#setFacts(staged, entry)
      }
      await rename(staged, at)
    } catch (error) {
      await rm(staged, { force: true })
      throw error
    }
  }

  async #setFacts(at: string, entry: EntryOut): Promise<void> {
    if (this.#options.owners) await lchown(at, entry.uid, entry.gid)
    await chmod(at, entry.mode)
    if (entry.mtime > 0) await utimes(at, entry.mtime, entry.mtime)
  }
}

/** One step of a path that came from a guest. */
function safeSegment(segment: string, whole: string): string {
  if (
    segment === '' ||
    segment === '.' ||
    segment === '..' ||
    segment.includes('/') ||
    segment.includes('\0') ||
    segment.includes(path.sep)
  )
    throw new Error(`the guest named a file '${whole}', which could lie outside of the destination: nothing more is copied`)
  return segment
}

async function makeRealDirectory(at: string): Promise<void> {
  const before = await lookAt(at)
  if (before === undefined) {
    await mkdir(at, { mode: 0o700 })
    return
  }
  if (before.isSymbolicLink()) throw new Error(`${at} is a symbolic link: nothing is written through it`)
  if (!before.isDirectory()) throw new Error(`${at} is not a directory, and is not replaced by one`)
}

async function lookAt(at: string): Promise<Stats | undefined> {
  return await lstat(at).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
}
