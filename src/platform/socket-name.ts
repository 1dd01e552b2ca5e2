// The name of a unix socket for one connection, where what lies under the name may not be trusted: the process behind it could put a link to another socket of the host in its place.

import { closeSync, constants, fstatSync, openSync } from 'node:fs'
import { HypemanError } from '../api/errors.ts'

/** linux/fcntl.h; Node has no name for it. */
const O_PATH = 0o10_000_000

/** Valid until it is disposed of, which takes nothing from a connection that was made by it. */
export interface SocketName extends Disposable {
  readonly path: string
}

export function socketName(path: string): SocketName {
  return { path, [Symbol.dispose]: () => undefined }
}

/** Holds the socket that lies there now, and follows no link. Without one the name leads nowhere, and a connection is refused as that to a missing socket. */
export function heldSocket(file: string): SocketName {
  const fd = openPath(file)
  if (fd === undefined) return socketName('/proc/self/fd/none')
  if (fstatSync(fd).isSocket()) return { path: `/proc/self/fd/${fd}`, [Symbol.dispose]: () => closeSync(fd) }
  closeSync(fd)
  throw new HypemanError(
    'host_unavailable',
    `${file} is no socket: the process that it belongs to is not to be trusted any more; stop its instance`,
  )
}

function openPath(file: string): number | undefined {
  try {
    return openSync(file, O_PATH | constants.O_NOFOLLOW)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}
