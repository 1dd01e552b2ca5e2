// Failures as a person reads them: what failed, and on the next line what to do. With --debug also which request it was and the stack.

import { catalogue } from '../api/errors.ts'
import { ApiError, UnreachableError } from '../client/errors.ts'

/** A command was used wrongly in a way that its declaration can't say: exit 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UsageError'
  }
}

/** The lines to show for an error. */
export function describeError(error: unknown, debug: boolean): string {
  const lines = [`Error: ${error instanceof Error ? error.message : String(error)}`]
  if (error instanceof ApiError) lines.push(...error.details.map((detail) => `  ${detail}`))
  const hint = hintFor(error)
  if (hint !== undefined) lines.push(hint)
  if (debug && error instanceof ApiError) lines.push(`${error.method} ${error.path}: ${error.status} ${error.code}`)
  if (debug && error instanceof Error && error.stack !== undefined) lines.push(error.stack, ...causes(error))
  return lines.join('\n')
}

function hintFor(error: unknown): string | undefined {
  if (error instanceof UnreachableError) return 'Start one with hypeman serve, or name another with --base-url or HYPEMAN_BASE_URL.'
  if (!(error instanceof ApiError)) return undefined
  if (error.status === 401)
    return 'Set HYPEMAN_API_KEY to a token (hypeman token create makes one), or DATA_DIR to the data directory of a local server.'
  const row = Object.entries(catalogue).find(([code]) => code === error.code)?.[1]
  return row === undefined || saysWhatToDo(error.message) ? undefined : row.hint
}

/** The server's messages mostly end in advice of their own, after a semicolon: two pieces of advice would be one too many. */
function saysWhatToDo(message: string): boolean {
  return message.includes('; ')
}

function causes(error: Error): string[] {
  const stacks: string[] = []
  for (let cause = error.cause; cause instanceof Error; cause = cause.cause) stacks.push(`caused by ${cause.stack ?? cause.message}`)
  return stacks
}
