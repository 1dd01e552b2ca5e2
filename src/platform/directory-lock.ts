// One server per data directory: flock(2) on the directory and on a file in it, which the kernel drops when the process dies. The directory's lock
// holds whoever removes the file; the file says who. Not for locks inside the process (keyed-lock.ts).

import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'
import { diskError } from './disk-error.ts'

const LOCK_EX = 2
const LOCK_NB = 4

// Justification: Node offers no flock(2), and only a lock of the kernel's dies with its process.
// Safety: takes two integers and keeps no pointer; a failed call is recognised by its result alone, errno words the reason.
let flock: ((fd: number, operation: number) => number) | undefined
function bindFlock(): (fd: number, operation: number) => number {
  flock ??= koffi.load(null).func('int flock(int fd, int operation)') as (fd: number, operation: number) => number
  return flock
}

/** Takes the data directory of the lock file for this process, or throws `conflict` that names its holder. Disposing gives it back. */
export function lockDirectory(file: string): Disposable {
  using held = new DisposableStack()
  const directory = held.adopt(openSync(path.dirname(file), constants.O_RDONLY | constants.O_DIRECTORY), closeSync)
  const note = held.adopt(openLock(file), closeSync)
  for (const fd of [directory, note]) if (bindFlock()(fd, LOCK_EX | LOCK_NB) !== 0) throw refused(file, koffi.errno())
  try {
    // Written over before it is cut, so that a full disk, which only the server can free, does not keep it from starting.
    ftruncateSync(note, writeSync(note, `pid ${process.pid}\n`, 0))
  } catch (error) {
    throw diskError(file, error)
  }
  return held.move()
}

function refused(file: string, errno: number): HypemanError {
  if (errno !== os.constants.errno.EAGAIN)
    return new HypemanError(
      'storage_unsuitable',
      `${path.dirname(file)} can't be locked (flock, errno ${errno}); put the data directory on a local disk`,
    )
  const holder = readFileSync(file, 'utf8').trim()
  return new HypemanError(
    'conflict',
    `another server (${holder || 'unknown process'}) uses this data directory (${file}); stop it or choose another with --data-dir`,
  )
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
