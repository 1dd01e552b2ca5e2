// One server per data directory: an flock(2) on a file in it, which the kernel drops when the process dies. Not for locks inside the process (keyed-lock.ts).

import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'
import { diskError } from './disk-error.ts'

const LOCK_EX = 2
const LOCK_NB = 4

// Justification: Node offers no flock(2), and only a lock of the kernel's dies with its process.
// Safety: takes two integers and keeps no pointer; a failed call is recognised by its result alone.
let flock: ((fd: number, operation: number) => number) | undefined
function bindFlock(): (fd: number, operation: number) => number {
  flock ??= koffi.load(null).func('int flock(int fd, int operation)') as (fd: number, operation: number) => number
  return flock
}

/** Takes the lock file for this process, or throws `conflict` that names its holder. Disposing gives it back. */
export function lockDirectory(file: string): Disposable {
  const fd = openLock(file)
  if (bindFlock()(fd, LOCK_EX | LOCK_NB) !== 0) {
    const holder = readFileSync(file, 'utf8').trim()
    closeSync(fd)
    throw new HypemanError(
      'conflict',
      `another server (${holder || 'unknown process'}) uses this data directory (${file}); stop it or choose another with --data-dir`,
    )
  }
  try {
    // Written over before it is cut, so that a full disk, which only the server can free, does not keep it from starting.
    const length = writeSync(fd, `pid ${process.pid}\n`, 0)
    ftruncateSync(fd, length)
  } catch (error) {
    closeSync(fd)
    throw diskError(file, error)
  }
  return { [Symbol.dispose]: () => closeSync(fd) }
}

/** What it would be a link to is left alone. */
function openLock(file: string): number {
  try {
    return openSync(file, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600)
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
    if (code !== 'ELOOP' && code !== 'EACCES' && code !== 'EISDIR') throw diskError(file, cause)
    throw new HypemanError(
      'storage_unsuitable',
      `the lock ${file} can't be opened (${String(code)}): it must be a plain file that this user may write; remove it`,
      { cause },
    )
  }
}
