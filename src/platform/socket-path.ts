// How long the path of a unix socket may be.

import path from 'node:path'
import { HypemanError } from '../api/errors.ts'

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
