// A yamux session as the host speaks it: it opens streams, the guest never does.
// The guest is not trusted: whatever breaks the framing ends the session, and nothing it sends makes memory grow.

import type { Duplex } from 'node:stream'
import { HypemanError } from '../api/errors.ts'
import { frameFlags, frameTypes, HEADER_BYTES, headerOf, LONGEST_RENEWAL, safeLength, WINDOW_BYTES } from './yamux-frames.ts'
import { YamuxStream, type StreamSession } from './yamux-stream.ts'

/** Streams that may be open at once: half of what the agent takes, since it may still hold what was closed here. */
const MOST_STREAMS = 512
/** Answers to pings that may wait for the channel. The agent sends no pings. */
const MOST_PONGS = 64
const LAST_STREAM_ID = 0xffff_ffff

/** One session over one channel. `forbidden` never appears whole in what it writes (the channel's preamble). */
export class YamuxSession implements StreamSession {
  readonly #channel: Duplex
  readonly #forbidden: Buffer
  readonly #streams = new Map<number, YamuxStream>()
  readonly #ended = Promise.withResolvers<void>()
  readonly #begun = Promise.withResolvers<void>()
  /** What the guest says before its first frame, and the end of what came, as long as that was something else. */
  #opening: Buffer | undefined
  #unrelated: Buffer = Buffer.alloc(0)
  #failure: Error | undefined
  #nextId = 1
  #pongs = 0
  /** Header under way, and how much of it is there. */
  readonly #header = Buffer.alloc(HEADER_BYTES)
  #headerBytes = 0
  /** What is left of a data frame, and whose it is. */
  #bodyLeft = 0
  #bodyFlags = 0
  #bodyStream: YamuxStream | undefined
  /** The renewal whose answer is waited for, and what is there of it. */
  #renewal: PromiseWithResolvers<Buffer> | undefined
  #renewed: Buffer[] | undefined

  /** With `opening`, everything up to those bytes is discarded. */
  constructor(channel: Duplex, forbidden: Buffer, opening?: Buffer) {
    this.#channel = channel
    this.#forbidden = forbidden
    this.#opening = opening
    this.#begun.promise.catch(() => undefined) // told to whoever waits for it
    if (opening === undefined) this.#begun.resolve()
    channel.on('data', (chunk: Buffer) => this.receive(chunk))
    channel.on('error', (error) => this.end(error))
    channel.on('close', () => this.end(new Error('the channel was closed')))
  }

  /** Settles when the session has ended. Never rejects. */
  get ended(): Promise<void> {
    return this.#ended.promise
  }

  /** Resolves when the guest has begun to speak; rejects when the session ends before. */
  get begun(): Promise<void> {
    return this.#begun.promise
  }

  open(): Duplex {
    if (this.#nextId > LAST_STREAM_ID) this.end(new Error('all stream ids are used up'))
    if (this.#failure !== undefined) throw this.#failure
    if (this.#streams.size >= MOST_STREAMS)
      throw new HypemanError('busy', `the guest agent has ${MOST_STREAMS} requests under way; try again when some have ended`)
    const id = this.#nextId
    this.#nextId += 2
    const stream = new YamuxStream(this, id)
    this.#streams.set(id, stream)
    this.send(headerOf(frameTypes.windowUpdate, frameFlags.syn, id, 0))
    return stream
  }

  /** Sends a renewal and returns the guest's answer. One at a time; a session that ends meanwhile rejects it. */
  async renew(message: Buffer): Promise<Buffer> {
    if (this.#failure !== undefined) throw this.#failure
    if (this.#renewal !== undefined) throw new Error('a renewal is under way')
    const renewal = Promise.withResolvers<Buffer>()
    this.#renewal = renewal
    this.send(headerOf(frameTypes.renewal, 0, 0, message.length), message)
    return renewal.promise
  }

  /** Takes bytes of the channel. A guest that breaks the framing loses the session. */
  receive(bytes: Buffer): void {
    const chunk = this.#opening === undefined ? bytes : this.#afterOpening(bytes, this.#opening)
    try {
      for (let at = 0; at < chunk.length && this.#failure === undefined;)
        at += this.#bodyLeft > 0 ? this.#takeBody(chunk, at) : this.#takeHeader(chunk, at)
    } catch (error) {
      this.end(error instanceof Error ? error : new Error(String(error)))
    }
  }

  #afterOpening(bytes: Buffer, opening: Buffer): Buffer {
    const seen = Buffer.concat([this.#unrelated, bytes])
    const at = seen.indexOf(opening)
    if (at < 0) {
      this.#unrelated = seen.subarray(Math.max(0, seen.length - opening.length + 1))
      return Buffer.alloc(0)
    }
    this.#opening = undefined
    this.#unrelated = Buffer.alloc(0)
    this.#begun.resolve()
    return seen.subarray(at + opening.length)
  }

  /** Ends the session and every stream of it. Idempotent. */
  end(reason: Error): void {
    if (this.#failure !== undefined) return
    this.#failure = new HypemanError('guest_unreachable', 'the connection to the guest agent has ended', { cause: reason })
    for (const stream of [...this.#streams.values()]) stream.destroy(this.#failure)
    this.#streams.clear()
    this.#renewal?.reject(this.#failure)
    this.#begun.reject(this.#failure)
    this.#channel.destroy()
    this.#ended.resolve()
  }

  send(header: Buffer, payload?: Buffer, taken?: (error?: Error | null) => void): void {
    if (this.#failure !== undefined) {
      taken?.(this.#failure)
      return
    }
    if (payload === undefined) {
      this.#channel.write(header, taken)
      return
    }
    // Header and payload leave in one system call, without a copy.
    this.#channel.cork()
    this.#channel.write(header)
    this.#channel.write(payload, taken)
    this.#channel.uncork()
  }

  forget(id: number): void {
    this.#streams.delete(id)
  }

  frameLength(data: Buffer): number {
    return safeLength(data, this.#forbidden)
  }

  /** Returns how many bytes it took. */
  #takeHeader(chunk: Buffer, at: number): number {
    const taken = chunk.copy(this.#header, this.#headerBytes, at, at + HEADER_BYTES - this.#headerBytes)
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
    return taken
  }

  #handle(version: number, type: number, flags: number, id: number, length: number): void {
    if (version !== 0) throw new Error(`yamux version ${version}`)
    if (type === frameTypes.ping) {
      if ((flags & frameFlags.syn) !== 0) this.#answerPing(length)
      return
    }
    if (type === frameTypes.goAway) throw new Error(`the guest agent ended the session (code ${length})`)
    if (type === frameTypes.renewal) {
      if (this.#renewal === undefined || length === 0 || length > LONGEST_RENEWAL)
        throw new Error(`an answer of ${length} bytes to no renewal`)
      this.#renewed = []
      this.#bodyLeft = length
      return
    }
    if (type !== frameTypes.data && type !== frameTypes.windowUpdate) throw new Error(`yamux frame of type ${type}`)
    if ((flags & frameFlags.syn) !== 0) throw new Error('the guest opened a stream')
    // A stream that was closed here may still be written to by a guest that has not heard of it.
    const stream = this.#streams.get(id)
    if (type === frameTypes.windowUpdate) {
      stream?.grow(length)
      stream?.flags(flags)
      return
    }
    if (length > WINDOW_BYTES) throw new Error(`yamux data frame of ${length} bytes`)
    stream?.reserve(length)
    this.#bodyLeft = length
    this.#bodyFlags = flags
    this.#bodyStream = stream
    if (length === 0) stream?.flags(flags)
  }

  #answerPing(value: number): void {
    this.#pongs += 1
    if (this.#pongs > MOST_PONGS) throw new Error('the guest sends pings and takes no answers')
    this.send(headerOf(frameTypes.ping, frameFlags.ack, 0, value), undefined, () => {
      this.#pongs -= 1
    })
  }

  /** Returns how many bytes it took. */
  #takeBody(chunk: Buffer, at: number): number {
    const body = chunk.subarray(at, at + this.#bodyLeft)
    this.#bodyLeft -= body.length
    if (this.#renewed !== undefined) {
      this.#takeRenewed(this.#renewed, body)
      return body.length
    }
    this.#bodyStream?.deliver(body, chunk)
    if (this.#bodyLeft === 0) this.#bodyStream?.flags(this.#bodyFlags)
    return body.length
  }

  #takeRenewed(parts: Buffer[], body: Buffer): void {
    parts.push(body)
    if (this.#bodyLeft > 0) return
    const renewal = this.#renewal
    this.#renewed = undefined
    this.#renewal = undefined
    renewal?.resolve(Buffer.concat(parts))
  }
}
