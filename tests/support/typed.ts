// Lines as a person types them into bash, with hypeman on the path and a server to talk to.

import assert from 'node:assert/strict'
import path from 'node:path'
import { run, type Finished } from './command.ts'
import type { TestServer } from './server.ts'

const programs = path.resolve(import.meta.dirname, '../../bin')

export interface Prompt {
  /** Runs a line to its end, whatever that is. */
  readonly line: (text: string) => Promise<Finished>
  /** Runs a line that must succeed; its output without blanks at the end. */
  readonly done: (text: string) => Promise<string>
  /** Runs a line that must fail with that code and say so; its standard error. */
  readonly refused: (code: number, text: string) => Promise<string>
}

/** The prompt of a user who has the token; each line runs in a shell of its own, in the server's scratch directory. */
export function promptOf(server: TestServer): Prompt {
  const home = server.environment['HOME']
  // Asked for with each line: a server that was started again has another port.
  const environment = (): NodeJS.ProcessEnv => ({
    ...process.env,
    ...server.environment,
    PATH: `${programs}:${process.env['PATH'] ?? ''}`,
  })
  const line = (text: string): Promise<Finished> =>
    run('bash', ['-c', text], { env: environment(), ...(home === undefined ? {} : { cwd: home }) })
  return {
    line,
    async done(text) {
      const { code, stdout, stderr } = await line(text)
      assert.equal(code, 0, `${text}\n${stdout}${stderr}`)
      return stdout.trimEnd()
    },
    async refused(code, text) {
      const ended = await line(text)
      assert.equal(ended.code, code, `${text}\n${ended.stdout}${ended.stderr}`)
      return ended.stderr
    },
  }
}
