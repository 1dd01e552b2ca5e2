// What a process says in its logs while it starts, for the error of a start that fails.

import { statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { HypemanError } from '../api/errors.ts'
import { isMissing } from '../files/tree.ts'

/** More than a process that fails to start has reason to say, in bytes. */
const TAIL_BYTES = 16_384

/** Notes where a log ends now, which need not be there. What is returned reads what was added since: its last lines, at most so many. */
export function listenToLog(file: string): (mostLines?: number) => Promise<readonly string[]> {
  const from = statSync(file, { throwIfNoEntry: false })?.size ?? 0
  return async (mostLines = 3) =>
    (await tailOf(file, from))
      .split('\n')
      .filter((line) => line !== '')
      .slice(-mostLines)
}

/** The last of what a file has from an offset on. */
async function tailOf(file: string, from: number): Promise<string> {
  try {
    await using handle = await open(file, 'r')
    const { size } = await handle.stat()
    const start = Math.max(from, size - TAIL_BYTES)
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.max(0, size - start)), 0, Math.max(0, size - start), start)
    return buffer.toString('utf8', 0, bytesRead)
  } catch (error) {
    if (isMissing(error)) return ''
    throw error
  }
}

/** The error of a start in the driver's words; one that says already what is wrong stays as it is. */
export function startFailure(error: unknown, words: string): unknown {
  if (error instanceof HypemanError && error.code !== 'host_unavailable') return error
  return new HypemanError('host_unavailable', words, { cause: error })
}
