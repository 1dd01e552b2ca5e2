// The error for a filesystem that can't do what is asked of it: it names the path and the filesystem.

import { HypemanError } from '../api/errors.ts'
import { filesystemOf } from '../platform/host-storage.ts'

/** `what` says what the filesystem of `file` can't do. */
export function unsuitable(file: string, what: string): HypemanError {
  return new HypemanError(
    'storage_unsuitable',
    `the filesystem of ${file} (${filesystemOf(file)}) ${what}; put the data directory on ext4, XFS or btrfs`,
  )
}
