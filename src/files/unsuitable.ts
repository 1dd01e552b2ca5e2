// The error for a filesystem that can't do what is asked of it: it names the path and the filesystem.

import { getSystemErrorName } from 'node:util'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { diskError } from '../platform/disk-error.ts'
import { filesystemOf } from '../platform/host-storage.ts'

/** `what` says what the filesystem of `file` can't do. */
export function unsuitable(file: string, what: string): HypemanError {
  return new HypemanError(
    'storage_unsuitable',
    `the filesystem of ${file} (${filesystemOf(file)}) ${what}; put the data directory on ext4, XFS or btrfs`,
  )
}

/** A system call on `file` that failed with `errno`: a disk that is full, read-only or failing is said to be, anything else is lacking in the filesystem. */
export function failedCall(file: string, call: string, errno: number, what: string): HypemanError {
  const error = diskError(file, Object.assign(new Error(`${call}, errno ${errno}`), { code: getSystemErrorName(-errno) }))
  return isHypemanError(error) ? error : unsuitable(file, `${what} (${call}, errno ${errno})`)
}
