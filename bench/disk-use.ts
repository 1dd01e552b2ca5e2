// What a step takes on disk: allocated bytes of the files that were not there before it. What is linked or grows is not new.

import { lstat, readdir } from 'node:fs/promises'
import path from 'node:path'

/** Allocated bytes by inode. */
export type DiskUse = ReadonlyMap<number, number>

/** Of all that lies below a directory; what vanishes meanwhile is left out. */
export async function diskUse(directory: string): Promise<DiskUse> {
  const use = new Map<number, number>()
  for (const name of await readdir(directory, { recursive: true })) {
    const found = await lstat(path.join(directory, name)).catch(() => undefined) // removed meanwhile
    // stat(2): blocks are of 512 bytes whatever the file system's own are.
    if (found?.isFile() === true) use.set(found.ino, found.blocks * 512)
  }
  return use
}

/** In bytes. */
export function newBytes(before: DiskUse, after: DiskUse): number {
  return [...after].reduce((sum, [inode, bytes]) => (before.has(inode) ? sum : sum + bytes), 0)
}
