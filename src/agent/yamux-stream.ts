// One stream of a yamux session as a Duplex. No more is held of what the guest sends than the stream's window; a reader that stops stops the guest.

import { Duplex } from 'node:stream'
import { HypemanError } from '../api/errors.ts'
import { frameFlags, frameTypes, headerOf, WINDOW_BYTES } from './yamux-frames.ts'

/** Window is given back in pieces of this size, in bytes. */
const GRANT_BYTES = WINDOW_BYTES / 2
/** Smaller pieces that wait to be read are joined, so that a guest can't make many objects of few bytes. */
const SMALL_BYTES = 4096
/** The largest window that the framing can express, in bytes. */
const LARGEST_WINDOW = 0xffff_ffff

/** What a stream needs of its session. */
export interface StreamSession {
  /** Writes a frame to the channel; calls back when it was taken. */
  send(header: Buffer, payload?: Buffer, taken?: (error?: Error | null) => void): void
  /** How much of `data` may go into one frame. */
  frameLength(data: Buffer): number
  forget(id: number): void
}

export class YamuxStream extends Duplex {
  readonly #session: StreamSession
  readonly #id: number
  /** Delivered and not yet read; bounded by the window. */
  #arrived: Buffer[] = []
  #next = 0
  /** Where small pieces are joined; the last of what arrived may be its beginning. */
  #block: Buffer = Buffer.alloc(0)
  #blockBytes = 0
  #wanted = false
  #arrivedEnd = false
  #receiveWindow = WINDOW_BYTES
  #consumed = 0
  #sendWindow = WINDOW_BYTES
  #whenGrown: (() => void) | undefined
  #sentEnd = false
  /** The guest has said that it reads no more. */
  #unread = false

  constructor(session: StreamSession, id: number) {
    super({ allowHalfOpen: true })
    this.#session = session
    this.#id = id
    // Whoever reads or writes is told; between two owners nobody is, and then the process must not end of it.
    this.on('error', () => undefined)
  }

  /** Counts announced bytes against the window. */
  reserve(bytes: number): void {
    if (bytes > this.#receiveWindow) throw new Error('the guest sent more than the window of a stream')
    this.#receiveWindow -= bytes
  }

  /** Takes bytes that are a part of `whole`, which stays in memory as long as they do. */
  deliver(bytes: Buffer, whole: Buffer): void {
    if (this.destroyed || bytes.length === 0) return
    if (!this.#wanted && bytes.length < SMALL_BYTES) this.#join(bytes)
    else this.#arrived.push(bytes.length * 2 < whole.length ? Buffer.from(bytes) : bytes)
    this.#hand()
  }

  /** Keeps a small piece with those before it. */
  #join(bytes: Buffer): void {
    const last = this.#arrived.length - 1
    const continues = this.#next <= last && this.#arrived[last]?.buffer === this.#block.buffer
    if (!continues || this.#blockBytes + bytes.length > SMALL_BYTES) {
      this.#block = Buffer.allocUnsafeSlow(SMALL_BYTES)
      this.#blockBytes = 0
    }
    bytes.copy(this.#block, this.#blockBytes)
    const from = this.#blockBytes
    this.#blockBytes += bytes.length
    if (from === 0) this.#arrived.push(this.#block.subarray(0, this.#blockBytes))
    else this.#arrived[last] = this.#block.subarray(0, this.#blockBytes)
  }

  /** The guest takes so many bytes more. */
  grow(bytes: number): void {
    this.#sendWindow += bytes
    if (this.#sendWindow > LARGEST_WINDOW) throw new Error('the guest gave more window than there can be')
    if (bytes > 0) this.#writeOn()
  }

  /** The flags of a frame, after its data. */
  flags(flags: number): void {
    // After its end the guest's reset says only that it reads no more: what it has sent is still to be read.
    if ((flags & frameFlags.rst) !== 0 && this.#arrivedEnd) this.#stopSending()
    else if ((flags & frameFlags.rst) !== 0) this.destroy(new HypemanError('guest_unreachable', 'the guest agent broke off the request'))
    else if ((flags & frameFlags.fin) !== 0 && !this.#arrivedEnd) {
      this.#arrivedEnd = true
      this.#hand()
    }
  }

  /** Nobody reads what is still written: it is dropped. */
  #stopSending(): void {
    this.#unread = true
    this.#writeOn()
  }

  #writeOn(): void {
    const whenGrown = this.#whenGrown
    this.#whenGrown = undefined
    whenGrown?.()
  }

  override _read(): void {
    this.#wanted = true
    this.#hand()
  }

  #hand(): void {
    while (this.#wanted) {
      const next = this.#arrived[this.#next]
      if (next === undefined) break
      this.#next += 1
      this.#consumed += next.length
      this.#wanted = this.push(next)
    }
    if (this.#next === this.#arrived.length) [this.#arrived, this.#next] = [[], 0]
    if (this.#consumed >= GRANT_BYTES && !this.#arrivedEnd) {
      this.#session.send(headerOf(frameTypes.windowUpdate, 0, this.#id, this.#consumed))
      this.#receiveWindow += this.#consumed
      this.#consumed = 0
    }
    if (this.#wanted && this.#arrivedEnd && this.#arrived.length === 0) {
      this.#wanted = false
      this.push(null)
    }
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.destroyed) return done(new HypemanError('guest_unreachable', 'the request to the guest agent was broken off'))
    if (chunk.length === 0 || this.#unread) return done()
    if (this.#sendWindow === 0) {
      this.#whenGrown = () => this._write(chunk, 'buffer' as BufferEncoding, done)
      return
    }
    const piece = chunk.subarray(0, this.#session.frameLength(chunk.subarray(0, this.#sendWindow)))
    this.#sendWindow -= piece.length
    this.#session.send(headerOf(frameTypes.data, 0, this.#id, piece.length), piece, (error) => {
      if (error !== undefined && error !== null) done(error)
      else this._write(chunk.subarray(piece.length), 'buffer' as BufferEncoding, done)
    })
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#sentEnd = true
    this.#session.send(headerOf(frameTypes.windowUpdate, frameFlags.fin, this.#id, 0), undefined, done)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#session.forget(this.#id)
    if (!this.#sentEnd || !this.#arrivedEnd) this.#session.send(headerOf(frameTypes.windowUpdate, frameFlags.rst, this.#id, 0))
    ;[this.#arrived, this.#next] = [[], 0]
    this.#writeOn()
    done(error)
  }
}
