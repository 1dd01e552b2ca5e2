// Runs a program to its end and keeps what it said. For tests of scripts and commands; not for servers or terminals.

import { execFile } from 'node:child_process'

export interface Finished {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/** Never rejects: a program that can't be started has code 127, one that a signal ended 128. */
export function run(
  program: string,
  args: readonly string[],
  options: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Finished> {
  const { promise, resolve } = Promise.withResolvers<Finished>()
  execFile(program, args, { maxBuffer: 64 * 1024 ** 2, ...options }, (error, stdout, stderr) => {
    const failed = typeof error?.code === 'number' ? error.code : error?.signal === undefined || error.signal === null ? 127 : 128
    resolve({ code: error === null ? 0 : failed, stdout, stderr })
  })
  return promise
}
