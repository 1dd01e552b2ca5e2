// Directory trees of regular files: check that they are, link them elsewhere, add up their sizes. Making things durable is stage.ts's.

import { readdirSync, type Dirent } from 'node:fs'
import { link, mkdir, opendir, stat } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'

/**
 * `conflict` unless the directory is there and all below it are files, sockets and directories: a link would lead to what is not ours.
 * For directories that may have been put there by hand.
 */
export function refuseForeignFiles(directory: string): void {
  try {
    // At once: a thousand directories are looked through at the start, and some by each fork.
    for (const entry of readdirSync(directory, { withFileTypes: true })) {
      const at = path.join(directory, entry.name)
      if (entry.isDirectory()) refuseForeignFiles(at)
      else if (!entry.isFile() && !entry.isSocket())
        throw new HypemanError(
          'conflict',
          `${at} is ${entry.isSymbolicLink() ? 'a link, which is never followed' : 'no plain file'}; put the file itself there, or delete what it belongs to`,
        )
    }
  } catch (cause) {
    if (!isMissing(cause)) throw cause
    throw new HypemanError('conflict', `${directory} is missing; put it back, or delete what it belongs to`, { cause })
  }
}

/** Makes the same directories below `target` and links every regular file into them. A missing source is an empty one. */
export async function linkTree(source: string, target: string): Promise<void> {
  await mkdir(target, { recursive: true })
  for await (const entry of await openOrNothing(source)) {
    const [from, to] = [path.join(source, entry.name), path.join(target, entry.name)]
    if (entry.isDirectory()) await linkTree(from, to)
    else if (entry.isFile()) await link(from, to)
  }
}

export interface TreeSize {
  /** Sum of the files' lengths, in bytes; holes count. */
  readonly sizeBytes: number
  /** What the files take on disk, in bytes; shared blocks count in full. */
  readonly allocatedBytes: number
}

/** Size of all regular files below a directory. */
export async function treeSize(directory: string): Promise<TreeSize> {
  let [sizeBytes, allocatedBytes] = [0, 0]
  for await (const entry of await openOrNothing(directory)) {
    const at = path.join(directory, entry.name)
    if (entry.isDirectory()) {
      const below = await treeSize(at)
      sizeBytes += below.sizeBytes
      allocatedBytes += below.allocatedBytes
    } else if (entry.isFile()) {
      const { size, blocks } = await stat(at)
      sizeBytes += size
      allocatedBytes += blocks * 512
    }
  }
  return { sizeBytes, allocatedBytes }
}

/** True for the error of a path that does not exist. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

async function openOrNothing(directory: string): Promise<AsyncIterable<Dirent>> {
  try {
    return await opendir(directory)
  } catch (error) {
    if (isMissing(error)) return (async function* (): AsyncGenerator<never> {})()
    throw error
  }
}
