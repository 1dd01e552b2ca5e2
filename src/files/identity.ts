// Which file a name stands for, and in which version: what tells, without reading it, that a file which nobody may write is still the one it was.
// Not ctime: each hard link made or removed changes it, and shared files get one with every fork.

import { lstatSync, type BigIntStats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { z } from 'zod'
import { isMissing } from './tree.ts'

/** Nanoseconds since the epoch, and inode numbers, as decimal digits. */
const digits = z.string().regex(/^-?\d+$/)

export const fileIdentity = z.object({
  sizeBytes: z.int().nonnegative(),
  /** Of the last write. */
  modifiedNs: digits,
  inode: digits,
  /** When the inode was made: numbers of inodes are used again. 0 where the filesystem does not keep it. */
  bornNs: digits,
})

export type FileIdentity = Readonly<z.infer<typeof fileIdentity>>

export interface SeenFile extends FileIdentity {
  readonly isRegular: boolean
  /** What it takes on disk, in bytes; at most its data and the filesystem's own notes. */
  readonly allocatedBytes: number
  readonly links: number
}

/**
 * What lies under a name, never through a link; undefined if nothing does. Synchronous: it takes microseconds, and ten of them in the thread pool, with
 * the answers' way back, cost a fork on a busy host more than a millisecond.
 */
export function seeFile(file: string): SeenFile | undefined {
  try {
    const found = lstatSync(file, { bigint: true })
    const [allocatedBytes, links] = [Number(found.blocks) * 512, Number(found.nlink)]
    return { ...identityOf(found), isRegular: found.isFile(), allocatedBytes, links }
  } catch (error) {
    // A file where one of its directories should be is as good as nothing.
    if (isMissing(error) || (error instanceof Error && 'code' in error && error.code === 'ENOTDIR')) return undefined
    throw error
  }
}

export async function readIdentity(handle: FileHandle): Promise<FileIdentity> {
  return identityOf(await handle.stat({ bigint: true }))
}

function identityOf(found: BigIntStats): FileIdentity {
  return {
    sizeBytes: Number(found.size),
    modifiedNs: String(found.mtimeNs),
    inode: String(found.ino),
    bornNs: String(found.birthtimeNs),
  }
}

/** Equal for the same version of the same file, under whatever name. */
export function identityKey({ sizeBytes, modifiedNs, inode, bornNs }: FileIdentity): string {
  return `${inode} ${bornNs} ${modifiedNs} ${sizeBytes}`
}
