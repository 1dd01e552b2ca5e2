// yamux (HashiCorp's published framing, version 0) as the host speaks it: it opens streams, the guest never does.
// The guest is not trusted: whatever breaks the framing ends the session, and no stream holds more than its window.

import { Duplex } from 'node:stream'
import { HypemanError } from '../api/errors.ts'

const DATA = 0
const WINDOW_UPDATE = 1
const PING = 2
const GO_AWAY = 3

const SYN = 1
const ACK = 2
const FIN = 4
const RST = 8

const HEADER_BYTES = 12
/** Receive window of each stream, both ways, in bytes. */
const WINDOW_BYTES = 262_144
/** Longest data frame, so that no stream holds the channel for long; guest/protocol.md. */
const LONGEST_FRAME = 32_768
/** Window is given back in pieces of this size, in bytes. */
const GRANT_BYTES = WINDOW_BYTES / 2

function headerOf(type: number, flags: number, stream: number, length: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt8(type, 1)
  header.writeUInt16BE(flags, 2)
  header.writeUInt32BE(stream, 4)
  header.writeUInt32BE(length, 8)
  return header
}

/** One session over one channel. `forbidden` never appears whole in what it writes (the channel's preamble). */
export class YamuxSession {
  readonly #channel: Duplex
  readonly #forbidden: Buffer
  readonly #streams = new Map<number, YamuxStream>()
  readonly #ended = Promise.withResolvers<void>()
  #failure: Error | undefined
  #nextId = 1
  /** Header under way, and how much of it is there. */
  readonly #header = Buffer.alloc(HEADER_BYTES)
  #headerBytes = 0
  /** What is left of a data frame, and whose it is. */
  #bodyLeft = 0
  #bodyFlags = 0
  #bodyStream: YamuxStream | undefined

  constructor(channel: Duplex, forbidden: Buffer) {
    this.#channel = channel
    this.#forbidden = forbidden
    channel.on('data', (chunk: Buffer) => this.receive(chunk))
    channel.on('error', (error) => this.end(error))
    channel.on('close', () => this.end(new Error('the channel was closed')))
  }

  /** Settles when the session has ended. Never rejects. */
  get ended(): Promise<void> {
    return this.#ended.promise
  }

  open(): Duplex {
    if (this.#failure !== undefined) throw this.#failure
    const id = this.#nextId
    this.#nextId += 2
    const stream = new YamuxStream(this, id)
    this.#streams.set(id, stream)
    this.send(headerOf(WINDOW_UPDATE, SYN, id, 0))
    return stream
  }

  /** Takes bytes of the channel. A guest that breaks the framing loses the session. */
  receive(chunk: Buffer): void {
    try {
      for (let rest = chunk; rest.length > 0 && this.#failure === undefined;)
        rest = this.#bodyLeft > 0 ? this.#takeBody(rest) : this.#takeHeader(rest)
    } catch (error) {
      this.end(error instanceof Error ? error : new Error(String(error)))
    }
  }

  /** Ends the session and every stream of it. Idempotent. */
  end(reason: Error): void {
    if (this.#failure !== undefined) return
    this.#failure = new HypemanError('guest_unreachable', 'the connection to the guest agent has ended', { cause: reason })
    for (const stream of [...this.#streams.values()]) stream.destroy(this.#failure)
    this.#streams.clear()
    this.#channel.destroy()
    this.#ended.resolve()
  }

  /** Writes to the channel; calls back when it was taken. */
  send(header: Buffer, payload?: Buffer, taken?: (error?: Error | null) => void): void {
    if (this.#failure !== undefined) {
      taken?.(this.#failure)
      return
    }
    this.#channel.write(payload === undefined ? header : Buffer.concat([header, payload]), taken)
  }

  forget(id: number): void {
    this.#streams.delete(id)
  }

  /** How much of `data` may go into one frame: never the forbidden bytes in one piece. */
  frameLength(data: Buffer): number {
    const longest = Math.min(data.length, LONGEST_FRAME)
    const found = data.subarray(0, longest).indexOf(this.#forbidden)
    return found < 0 ? longest : found + 1
  }

  #takeHeader(chunk: Buffer): Buffer {
    const taken = chunk.copy(this.#header, this.#headerBytes, 0, HEADER_BYTES - this.#headerBytes)
    this.#headerBytes += taken
    if (this.#headerBytes === HEADER_BYTES) {
      this.#headerBytes = 0
      this.#handle(
        this.#header.readUInt8(0),
        this.#header.readUInt8(1),
        this.#header.readUInt16BE(2),
        this.#header.readUInt32BE(4),
        this.#header.readUInt32BE(8),
      )
    }
    return chunk.subarray(taken)
  }

  #handle(version: number, type: number, flags: number, id: number, length: number): void {
    if (version !== 0) throw new Error(`yamux version ${version}`)
    if (type === PING) {
      if ((flags & SYN) !== 0) this.send(headerOf(PING, ACK, 0, length))
      return
    }
    if (type === GO_AWAY) throw new Error(`the guest agent ended the session (code ${length})`)
    if (type !== DATA && type !== WINDOW_UPDATE) throw new Error(`yamux frame of type ${type}`)
    if ((flags & SYN) !== 0) throw new Error('the guest opened a stream')
    // A stream that was closed here may still be written to by a guest that has not heard of it.
    const stream = this.#streams.get(id)
    if (type === WINDOW_UPDATE) {
      stream?.grow(length)
      stream?.flags((flags & FIN) !== 0, (flags & RST) !== 0)
      return
    }
    if (length > WINDOW_BYTES) throw new Error(`yamux data frame of ${length} bytes`)
    stream?.reserve(length)
    this.#bodyLeft = length
    this.#bodyFlags = flags
    this.#bodyStream = stream
    if (length === 0) stream?.flags((flags & FIN) !== 0, (flags & RST) !== 0)
  }

  #takeBody(chunk: Buffer): Buffer {
    const body = chunk.subarray(0, this.#bodyLeft)
    this.#bodyLeft -= body.length
    this.#bodyStream?.deliver(Buffer.from(body))
    if (this.#bodyLeft === 0) this.#bodyStream?.flags((this.#bodyFlags & FIN) !== 0, (this.#bodyFlags & RST) !== 0)
    return chunk.subarray(body.length)
  }
}

class YamuxStream extends Duplex {
  readonly #session: YamuxSession
  readonly #id: number
  /** Delivered and not yet read; bounded by the window. */
  readonly #arrived: Buffer[] = []
  #wanted = false
  #arrivedEnd = false
  #receiveWindow = WINDOW_BYTES
  #consumed = 0
  #sendWindow = WINDOW_BYTES
  #whenGrown: (() => void) | undefined
  #sentEnd = false

  constructor(session: YamuxSession, id: number) {
    super({ allowHalfOpen: true })
    this.#session = session
    this.#id = id
  }

  /** Counts announced bytes against the window. */
  reserve(bytes: number): void {
    if (bytes > this.#receiveWindow) throw new Error('the guest sent more than the window of a stream')
    this.#receiveWindow -= bytes
  }

  deliver(data: Buffer): void {
    if (this.destroyed) return
    this.#arrived.push(data)
    this.#hand()
  }

  grow(bytes: number): void {
    this.#sendWindow += bytes
    const whenGrown = this.#whenGrown
    this.#whenGrown = undefined
    whenGrown?.()
  }

  flags(fin: boolean, rst: boolean): void {
    if (rst) this.destroy(new HypemanError('guest_unreachable', 'the guest agent broke off the request'))
    else if (fin && !this.#arrivedEnd) {
      this.#arrivedEnd = true
      this.#hand()
    }
  }

  override _read(): void {
    this.#wanted = true
    this.#hand()
  }

  #hand(): void {
    while (this.#wanted) {
      const next = this.#arrived.shift()
      if (next === undefined) break
      this.#wanted = this.push(next)
      this.#consumed += next.length
    }
    if (this.#consumed >= GRANT_BYTES && !this.#arrivedEnd) {
      this.#session.send(headerOf(WINDOW_UPDATE, 0, this.#id, this.#consumed))
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
    if (chunk.length === 0) return done()
    if (this.#sendWindow === 0) {
      this.#whenGrown = () => this._write(chunk, 'buffer' as BufferEncoding, done)
      return
    }
    const piece = chunk.subarray(0, this.#session.frameLength(chunk.subarray(0, this.#sendWindow)))
    this.#sendWindow -= piece.length
    this.#session.send(headerOf(DATA, 0, this.#id, piece.length), piece, (error) => {
      if (error !== undefined && error !== null) done(error)
      else this._write(chunk.subarray(piece.length), 'buffer' as BufferEncoding, done)
    })
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#sentEnd = true
    this.#session.send(headerOf(WINDOW_UPDATE, FIN, this.#id, 0), undefined, done)
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#session.forget(this.#id)
    if (!this.#sentEnd || !this.#arrivedEnd) this.#session.send(headerOf(WINDOW_UPDATE, RST, this.#id, 0))
    this.#arrived.length = 0
    const whenGrown = this.#whenGrown
    this.#whenGrown = undefined
    whenGrown?.()
    done(error)
  }
}
