// A WebSocket to the server as frames that are read and sent one by one, with back pressure both ways. What the frames mean: exec.ts, copy.ts.
// Only loaded by commands that need it.

import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { createWebSocketStream, WebSocket } from 'ws'
import { ApiError, parseErrorBody, UnreachableError } from './errors.ts'

/** Which server, and as whom. */
export interface Endpoint {
  readonly baseUrl: string
  readonly token: string | undefined
}

/** A server that does not answer the upgrade in this time is not there, in milliseconds. */
const HANDSHAKE_LIMIT_MS = 60_000
/** Servers send 32 KiB at a time; this is only to not be flooded, in bytes. */
const LARGEST_FRAME = 16 * 1024 ** 2
/** Sent at once, in bytes: what the official clients send. */
export const CHUNK_BYTES = 32 * 1024
/** An error's body beyond this is cut off, in bytes. */
const LONGEST_REFUSAL = 65_536

/** Text frames are strings, binary frames are buffers. */
export type Frame = string | Buffer

export class FrameStream implements Disposable {
  readonly #stream: Duplex
  readonly #path: string
  readonly #frames: AsyncIterator<Frame>

  constructor(stream: Duplex, path: string) {
    this.#stream = stream
    this.#path = path
    this.#frames = stream[Symbol.asyncIterator]()
  }

  /** The next frame; nothing when the server has closed the connection. */
  async next(): Promise<Frame | undefined> {
    try {
      const { done, value } = await this.#frames.next()
      return done === true ? undefined : value
    } catch (cause) {
      throw cause instanceof Error && 'code' in cause ? new UnreachableError(`the connection for ${this.#path} broke`, { cause }) : cause
    }
  }

  /** Resolves when the connection has taken the frame. */
  async send(frame: string | Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#stream.write(frame, (error) => (error ? reject(error) : resolve()))
    await promise
  }

  /** Hangs up. */
  [Symbol.dispose](): void {
    this.#stream.on('error', ignoreAfterHangUp)
    this.#stream.destroy()
  }
}

/** Nobody reads any more: how the connection ends has no meaning. */
function ignoreAfterHangUp(): void {}

/** Opens a connection; an answer that is not an upgrade is thrown as an `ApiError`. Aborting the signal breaks the connection with its reason. */
export async function openFrames(server: Endpoint, path: string, signal: AbortSignal): Promise<FrameStream> {
  signal.throwIfAborted()
  const socket = new WebSocket(`${server.baseUrl.replace(/^http/, 'ws')}${path}`, {
    headers: server.token === undefined ? {} : { authorization: `Bearer ${server.token}` },
    handshakeTimeout: HANDSHAKE_LIMIT_MS,
    maxPayload: LARGEST_FRAME,
    perMessageDeflate: false,
  })
  const opened = Promise.withResolvers<Duplex>()
  const abort = (): void => {
    opened.reject(signal.reason)
    socket.terminate()
  }
  signal.addEventListener('abort', abort, { once: true })
  socket.once('unexpected-response', (request, response) => {
    void readRefusal(response)
      .then((text) =>
        opened.reject(new ApiError({ method: 'GET', path }, response.statusCode ?? 0, parseErrorBody(response.statusCode ?? 0, text))),
      )
      .catch(opened.reject)
      .finally(() => request.destroy())
  })
  socket.on('error', (cause) => opened.reject(new UnreachableError(`no server answers at ${server.baseUrl}: ${cause.message}`, { cause })))
  // In the handler itself: a frame may follow the upgrade at once.
  socket.once('open', () => opened.resolve(createWebSocketStream(socket, { readableObjectMode: true, decodeStrings: false })))
  try {
    const stream = await opened.promise
    signal.removeEventListener('abort', abort)
    const hangUp = (): void => void stream.destroy(signal.reason)
    signal.addEventListener('abort', hangUp, { once: true })
    stream.once('close', () => signal.removeEventListener('abort', hangUp))
    return new FrameStream(stream, path)
  } catch (error) {
    signal.removeEventListener('abort', abort)
    throw error
  }
}

async function readRefusal(response: IncomingMessage): Promise<string> {
  let text = ''
  response.setEncoding('utf8')
  for await (const piece of response as AsyncIterable<string>) {
    text += piece
    if (text.length > LONGEST_REFUSAL) break
  }
  return text
}

/** A frame that must be an object of JSON; nothing if it is not. */
export function parseObject(frame: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value = JSON.parse(frame) as unknown
    return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : undefined
  } catch {
    return undefined // not JSON: the caller says what it expected
  }
}
