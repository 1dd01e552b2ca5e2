// Counts the machines that a test run boots. scripts/test names the file and prints how many lines it has.

import { appendFileSync } from 'node:fs'

/** Notes that a guest was booted or restored and its agent answered; `what` is for people who read the file. */
export function countVm(what: string): void {
  const file = process.env['HYPEMAN_VM_COUNT_FILE']
  if (file !== undefined) appendFileSync(file, `${what.replaceAll('\n', ' ')}\n`)
}
