// What a command has of the world: its streams, environment, home directory and the wish to stop. Everything else of the command line takes it from here.

import { constants, homedir } from 'node:os'
import type { Readable, Writable } from 'node:stream'

/** Standard input; `setRawMode` is there when it is a terminal. */
export type Input = Readable & { readonly isTTY?: boolean; setRawMode?(mode: boolean): unknown; unref?(): unknown }

/** Standard output or error; the size is there when it is a terminal. */
export type Output = Writable & { readonly isTTY?: boolean; readonly columns?: number; readonly rows?: number }

export interface Terminal {
  readonly stdin: Input
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  readonly home: string
  /** Aborted by an interrupt, with an `Interrupted` as its reason. */
  readonly signal: AbortSignal
}

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** The user, or who runs us, wants the command to stop. */
export class Interrupted extends Error {
  /** As a shell would report it: 128 + the signal's number. */
  readonly exitCode: number

  /** `SIGPIPE`: nobody reads the output any more. */
  constructor(signal: (typeof signals)[number] | 'SIGPIPE') {
    super('interrupted')
    this.name = 'Interrupted'
    this.exitCode = 128 + constants.signals[signal]
  }
}

/** The terminal of this process. Signals keep their usual effect until somebody asks for `signal`, and get it back once one has come. */
export function processTerminal(env: Terminal['env']): Terminal {
  const controller = new AbortController()
  let watching = false
  const watch = (): void => {
    if (watching) return
    watching = true
    const end = (signal: (typeof signals)[number]): void => {
      for (const one of signals) process.off(one, end)
      controller.abort(new Interrupted(signal))
    }
    for (const one of signals) process.on(one, end)
  }
  for (const stream of [process.stdout, process.stderr])
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE') throw error
      if (stream === process.stdout) controller.abort(new Interrupted('SIGPIPE'))
    })
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    env,
    home: homedir(),
    get signal() {
      watch()
      return controller.signal
    },
  }
}

/** Resolves once the stream has taken the text, so that a slow reader slows the writer down. Rejects if nobody reads any more. */
export async function write(stream: Output, text: string | Uint8Array): Promise<void> {
  if (stream.destroyed) throw new Interrupted('SIGPIPE')
  if (stream.write(text)) return
  const { promise, resolve } = Promise.withResolvers<void>()
  const settle = (): void => {
    for (const event of ['drain', 'close', 'error']) stream.off(event, settle)
    resolve()
  }
  for (const event of ['drain', 'close', 'error']) stream.on(event, settle)
  await promise
}
