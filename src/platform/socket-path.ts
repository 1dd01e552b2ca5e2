// How long the path of a unix socket may be.

import path from 'node:path'
import { HypemanError } from '../api/errors.ts'

/** Longest path of a unix socket on Linux: sun_path less its final zero; unix(7). */
const LONGEST_SOCKET_PATH = 107

/** A socket's absolute path, checked against the kernel's limit before anything is made. */
export function socketPath(directory: string, name: string): string {
  const file = path.join(directory, name)
  if (Buffer.byteLength(file) > LONGEST_SOCKET_PATH)
    throw new HypemanError(
      'storage_unsuitable',
      `the socket path ${file} is longer than ${LONGEST_SOCKET_PATH} bytes; use a data directory with a shorter path`,
    )
  return file
}
