// The command line in this process, against a server of the test's, with streams instead of a terminal.

import { PassThrough, Writable } from 'node:stream'
import type { Parts } from '../../src/cli/commands.ts'
import { runCommandLine } from '../../src/cli/program.ts'
import { Interrupted } from '../../src/cli/terminal.ts'

export interface Outcome {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface Running {
  readonly ended: Promise<Outcome>
  /** Standard error so far. */
  stderr(): string
  stdout(): string
  /** As Ctrl-C would. */
  interrupt(): void
  readonly stdin: PassThrough
}

/** A command line without a server and without hypervisors of its own. */
export const noParts: Parts = {
  serve: () => Promise.resolve(0),
  hypervisors: () => Promise.reject(new Error('the test has no hypervisors')),
}

export interface TerminalOptions {
  readonly parts?: Partial<Parts>
  readonly env?: Readonly<Record<string, string>>
  /** Standard input; ended when given. */
  readonly input?: string | Uint8Array
  readonly home?: string
}

export function startHypeman(url: string, words: readonly string[], options: TerminalOptions = {}): Running {
  const [out, err] = [new Sink(), new Sink()]
  const stdin = new PassThrough()
  if (options.input !== undefined) stdin.end(options.input)
  const controller = new AbortController()
  const terminal = {
    stdin,
    stdout: out,
    stderr: err,
    env: { HYPEMAN_BASE_URL: url, HYPEMAN_API_KEY: 'token', ...options.env },
    home: options.home ?? '/nonexistent',
    signal: controller.signal,
  }
  const ended = runCommandLine(words, terminal, { ...noParts, ...options.parts }).then((code) => ({
    code,
    stdout: out.text(),
    stderr: err.text(),
  }))
  return { ended, stderr: () => err.text(), stdout: () => out.text(), interrupt: () => controller.abort(new Interrupted('SIGINT')), stdin }
}

export function hypeman(url: string, words: readonly string[], options: TerminalOptions = {}): Promise<Outcome> {
  return startHypeman(url, words, options).ended
}

class Sink extends Writable {
  readonly #chunks: Buffer[] = []

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#chunks.push(chunk)
    done()
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8')
  }
}
