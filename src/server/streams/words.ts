// What the client of a stream is told of an error: its message. Causes are for the log.

import { isHypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'

/** Why a copy failed, and the path that it is about. */
export class CopyError extends Error {
  readonly path: string | undefined

  constructor(message: string, path?: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause })
    this.path = path
  }
}

export function wordsOf(error: unknown): string {
  return isHypemanError(error) || error instanceof CopyError ? error.message : messageOf(error)
}
