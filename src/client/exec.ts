// A command in a guest, over the exec WebSocket: input and output as they come, then how it ended.

import { openFrames, parseObject, type Endpoint, type FrameStream } from './streams.ts'
import { UnreachableError } from './errors.ts'

export interface ExecRequest {
  /** Empty: the image's shell. */
  readonly command: readonly string[]
  readonly tty: boolean
  readonly env?: Readonly<Record<string, string>> | undefined
  readonly cwd?: string | undefined
  readonly user?: string | undefined
  /** Until the command is ended, in seconds. */
  readonly timeout?: number | undefined
  readonly rows?: number | undefined
  readonly cols?: number | undefined
}

export type ExecOutput = { readonly kind: 'output'; readonly data: Buffer } | { readonly kind: 'exit'; readonly exitCode: number }

/** Starts a command; disposing of it hangs up, which ends the command if it still runs. */
export async function openExec(server: Endpoint, instance: string, request: ExecRequest, signal: AbortSignal): Promise<Exec> {
  const frames = await openFrames(server, `/instances/${encodeURIComponent(instance)}/exec`, signal)
  // stdin_eof asks the server to take the end of input as a frame: without it, a command that reads to the end would wait for ever.
  await frames.send(JSON.stringify({ ...request, stdin_eof: true }))
  return new Exec(frames)
}

class Exec implements Disposable {
  readonly #frames: FrameStream

  constructor(frames: FrameStream) {
    this.#frames = frames
  }

  /** Output as it comes; the last one is `exit`. */
  async *outputs(): AsyncGenerator<ExecOutput> {
    for (let frame = await this.#frames.next(); frame !== undefined; frame = await this.#frames.next()) {
      if (typeof frame !== 'string') {
        yield { kind: 'output', data: frame }
        continue
      }
      const message = parseObject(frame)
      if (typeof message?.['exitCode'] === 'number') return yield { kind: 'exit', exitCode: message['exitCode'] }
      throw new Error(
        typeof message?.['error'] === 'string' ? message['error'] : `the server sent what exec does not know: ${frame.slice(0, 200)}`,
      )
    }
    throw new UnreachableError('the connection ended before the command did')
  }

  /** Resolves when the connection has taken the bytes. */
  async write(data: Uint8Array): Promise<void> {
    await this.#frames.send(data)
  }

  async endInput(): Promise<void> {
    await this.#frames.send(JSON.stringify({ eof: true }))
  }

  async resize(rows: number, cols: number): Promise<void> {
    await this.#frames.send(JSON.stringify({ resize: { rows, cols } }))
  }

  [Symbol.dispose](): void {
    this.#frames[Symbol.dispose]()
  }
}
