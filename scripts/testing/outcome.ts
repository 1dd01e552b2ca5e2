// What a part of the test run brought: counts that add up, and running a command whose output people read as it comes.
// Not for commands whose output is data.

import { spawn } from 'node:child_process'
import { constants } from 'node:os'

export interface Outcome {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

export const nothing: Outcome = { passed: 0, failed: 0, skipped: 0 }
export const onePassed: Outcome = { ...nothing, passed: 1 }
export const oneFailed: Outcome = { ...nothing, failed: 1 }

export function sum(outcomes: readonly Outcome[]): Outcome {
  return outcomes.reduce(
    (total, one) => ({
      passed: total.passed + one.passed,
      failed: total.failed + one.failed,
      skipped: total.skipped + one.skipped,
    }),
    nothing,
  )
}

export interface CommandOptions {
  readonly cwd?: string
  /** Added to our own environment. */
  readonly env?: Readonly<Record<string, string>>
}

/** Runs a command on our own terminal and returns its exit code; a signal counts as 128 + its number, a missing program as 127. */
export function runCommand(argv: readonly string[], options: CommandOptions = {}): Promise<number> {
  const [program = '', ...args] = argv
  const { promise, resolve } = Promise.withResolvers<number>()
  const child = spawn(program, args, { cwd: options.cwd, env: { ...process.env, ...options.env }, stdio: ['ignore', 'inherit', 'inherit'] })
  child.once('error', (error) => {
    console.error(`${program}: ${error.message}`)
    resolve(127)
  })
  child.once('exit', (code, signal) => resolve(code ?? 128 + (signal === null ? 0 : constants.signals[signal])))
  return promise
}
