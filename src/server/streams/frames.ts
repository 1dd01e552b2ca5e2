// A WebSocket as two flows with back pressure: frames in through a bounded queue, frames out no faster than the peer reads.

import type { WebSocket } from 'ws'

export type Frame = { readonly kind: 'binary'; readonly data: Buffer } | { readonly kind: 'text'; readonly text: string }

/** Largest binary frame that is sent; some clients take no more than 1 MiB. */
export const LONGEST_FRAME = 32 * 1024
/** Bytes that wait on either side before the other is held back. A client may write that much before it begins to read. */
const MOST_WAITING = 4 * 1024 ** 2
/** Of all connections together. Beyond it each is held back by what keeps it busy: many that don't read must not take up the server. */
const MOST_WAITING_IN_ALL = 32 * 1024 ** 2
const FEW_WAITING = 256 * 1024

/** Keeps proxies and address translations on the way from forgetting a quiet connection, and finds peers that are gone. */
const PING_MS = 30_000

/** Close code of a connection that does not do what it is for. RFC 6455, section 7.4.1. */
const POLICY_VIOLATION = 1008

/** How long a client that has everything may take to say good-bye itself. */
const GOODBYE_MS = 5_000

/** The connection has ended, so nothing more can be said on it. */
export class SocketGone extends Error {
  constructor(cause?: unknown) {
    super('the client has gone', { cause })
  }
}

/** What waits on all connections that are open, in bytes, both ways. */
let waitingInAll = 0

/** How much of one connection may wait. */
function roomForOne(): number {
  return waitingInAll > MOST_WAITING_IN_ALL ? FEW_WAITING : MOST_WAITING
}

export class FrameSocket {
  readonly #socket: WebSocket
  readonly #gone = new AbortController()
  #waiting: Frame[] = []
  #waitingBytes = 0
  #wake = Promise.withResolvers<void>()

  /** Must be made in the turn in which the socket opened: frames that nobody listens for are lost. A client that does not begin in time is sent away. */
  constructor(socket: WebSocket, firstFrameMs: number) {
    this.#socket = socket
    const late = setTimeout(() => socket.close(POLICY_VIOLATION, 'the first frame did not come in time'), firstFrameMs)
    socket.once('message', () => clearTimeout(late))
    socket.on('message', (data: Buffer, isBinary: boolean) => {
      this.#waiting.push(isBinary ? { kind: 'binary', data } : { kind: 'text', text: data.toString('utf8') })
      this.#waitingBytes += data.length
      waitingInAll += data.length
      if (this.#waitingBytes > roomForOne()) socket.pause()
      this.#wake.resolve()
    })
    const pings = setInterval(() => {
      if (socket.readyState === socket.OPEN) socket.ping()
    }, PING_MS)
    socket.once('close', () => {
      clearInterval(pings)
      clearTimeout(late)
      // What has not been read yet may never be.
      waitingInAll -= this.#waitingBytes
      this.#waitingBytes = 0
      this.#gone.abort(new SocketGone())
      this.#wake.resolve()
    })
  }

  /** Aborts when the connection has ended. */
  get gone(): AbortSignal {
    return this.#gone.signal
  }

  /** The next frame; undefined after the last one of a connection that has ended. One caller at a time. */
  async next(): Promise<Frame | undefined> {
    for (;;) {
      const frame = this.#waiting.shift()
      if (frame !== undefined) {
        if (!this.#gone.signal.aborted) this.#taken(frame.kind === 'binary' ? frame.data.length : Buffer.byteLength(frame.text))
        return frame
      }
      if (this.#gone.signal.aborted) return undefined
      await this.#wake.promise
      this.#wake = Promise.withResolvers<void>()
    }
  }

  sendText(message: object): Promise<void> {
    return this.#send(JSON.stringify(message))
  }

  sendBinary(data: Uint8Array): Promise<void> {
    return this.#send(data)
  }

  /** Leaves the good-bye to the client, for a while. Some take ours for a failure if it comes before they have written down what they received. */
  async waitForGoodbye(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    const timer = setTimeout(resolve, GOODBYE_MS)
    const gone = (): void => resolve()
    this.gone.addEventListener('abort', gone, { once: true })
    if (!this.gone.aborted) await promise
    clearTimeout(timer)
    this.gone.removeEventListener('abort', gone)
  }

  /** Says good-bye after everything that was sent. */
  close(): void {
    this.#socket.resume()
    this.#socket.close(1000)
  }

  #taken(length: number): void {
    this.#waitingBytes -= length
    waitingInAll -= length
    if (this.#waitingBytes <= roomForOne() / 2 && this.#socket.isPaused) this.#socket.resume()
  }

  /** Resolves when there is room for more; rejects with `SocketGone`. */
  async #send(data: string | Uint8Array): Promise<void> {
    const { promise: written, resolve, reject } = Promise.withResolvers<void>()
    const length = Buffer.byteLength(data)
    waitingInAll += length
    this.#socket.send(data, { binary: typeof data !== 'string' }, (error) => {
      waitingInAll -= length
      if (error === undefined || error === null) resolve()
      else reject(new SocketGone(error))
    })
    if (this.#socket.readyState === this.#socket.OPEN && this.#socket.bufferedAmount <= roomForOne()) {
      written.catch(() => undefined) // the next frame, or the end of the connection, tells it
      return
    }
    await written
  }
}
