// Paths of a helper's unix sockets, and what is left of them.

import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { removeFile } from '../../files/stage.ts'
import { vzFiles } from './configuration.ts'

/** Longest path of a unix socket: sun_path less its final zero; unix(4) on macOS, unix(7) on Linux. */
const longest: Readonly<Partial<Record<NodeJS.Platform, number>>> = { darwin: 103 }
const LONGEST_ELSEWHERE = 107

/** A socket's absolute path, checked against the system's limit before anything is made. */
export function socketPath(directory: string, name: string, platform: NodeJS.Platform = process.platform): string {
  const file = path.join(directory, name)
  const limit = longest[platform] ?? LONGEST_ELSEWHERE
  if (Buffer.byteLength(file) > limit)
    throw new HypemanError(
      'storage_unsuitable',
      `the socket path ${file} is longer than ${limit} bytes; use a data directory with a shorter path`,
    )
  return file
}

/** What a process that was killed left: a new one makes its own. */
export async function removeSockets(directory: string): Promise<void> {
  for (const name of [vzFiles.control, vzFiles.vsock]) await removeFile(path.join(directory, name))
}
