// What a command has of the world: its streams, environment, home directory and the wish to stop. Everything else of the command line takes it from here.

import type { Readable, Writable } from 'node:stream'

/** Standard input; `setRawMode` is there when it is a terminal. */
export type Input = Readable & { readonly isTTY?: boolean; setRawMode?(mode: boolean): unknown; ref?(): unknown; unref?(): unknown }

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

/** The user, or who runs us, wants the command to stop. */
export class Interrupted extends Error {
  /** As a shell would report it: 128 + the signal's number. */
  readonly exitCode: number

  constructor(signal: 'SIGINT' | 'SIGTERM') {
    super('interrupted')
    this.name = 'Interrupted'
    this.exitCode = signal === 'SIGINT' ? 130 : 143
  }
}

/** Resolves once the stream has taken the text, so that a slow reader slows the writer down. */
export async function write(stream: Output, text: string | Uint8Array): Promise<void> {
  if (stream.write(text)) return
  const { promise, resolve } = Promise.withResolvers<void>()
  const settle = (): void => {
    stream.off('drain', settle)
    stream.off('close', settle)
    resolve()
  }
  stream.once('drain', settle)
  stream.once('close', settle)
  await promise
}
