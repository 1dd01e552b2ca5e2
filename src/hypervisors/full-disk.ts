// A VMM that writes a memory image itself tells a full disk in words of its own.

import { statfs } from 'node:fs/promises'
import { HypemanError } from '../api/errors.ts'

/** A file system with less than this is full for all that a VMM writes at once. */
const SMALLEST_SPACE_BYTES = 1024 ** 2

/** A refusal of a VMM that was to write into a directory, as the caller should see it: `storage_full` where the directory's file system is full, else what it is. */
export async function orFull(directory: string, refusal: unknown): Promise<unknown> {
  const { bavail, bsize } = await statfs(directory)
  if (bavail * bsize > SMALLEST_SPACE_BYTES) return refusal
  return new HypemanError('storage_full', `no space left to write ${directory}; free some and try again`, { cause: refusal })
}
