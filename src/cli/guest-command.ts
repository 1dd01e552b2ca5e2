// The command that a user gives for the guest, after the first argument: `run alpine echo hi`, `exec web -- ls -l`.

import { UsageError } from './report.ts'

/** The words without a leading `--`. A first word that looks like an option of ours is a mistake more often than a command. */
export function guestCommand(words: readonly string[]): string[] {
  const [first, ...rest] = words
  if (first === '--') return rest
  if (first?.startsWith('-') === true)
    throw new UsageError(
      `'${first}' comes after the first argument, where the command for the guest begins: options go before it (or put -- before a command that begins with a dash)`,
    )
  return [...words]
}
