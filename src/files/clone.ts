// Reflink: a new file that shares the blocks of another until one of the two is written. Whole or not at all, at any size.

import { constants } from 'node:fs'
import { copyFile, rm } from 'node:fs/promises'

/** What a kernel says where files can't share blocks: another filesystem, one without reflink, or a pair of files that doesn't go together. */
const notHere: ReadonlySet<unknown> = new Set(['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOSYS', 'ENOTTY'])

/** Makes the new file `target` a clone of `source`: FICLONE on Linux, clonefile on macOS. False, with nothing made, if that can't be done here. */
export async function cloneFile(source: string, target: string): Promise<boolean> {
  try {
    await copyFile(source, target, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && notHere.has(error.code)) return false
    throw error
  }
}

/** True if other files can share the blocks of `file`: tried with the new file `scratch`, since nothing tells. */
export async function sharesBlocks(file: string, scratch: string): Promise<boolean> {
  if (!(await cloneFile(file, scratch))) return false
  await rm(scratch)
  return true
}
