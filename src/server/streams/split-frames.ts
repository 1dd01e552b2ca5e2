// Some clients send all of a program's input, however much it is, as one WebSocket message. The library that reads messages (ws) keeps each until it is whole, so that one of any size
// would take as much memory. Here such a frame becomes several that follow one another, as it comes: what is bytes to the receiver says nothing by where a message ends.
// RFC 6455, section 5.2: byte 0 is FIN, three reserved bits and the opcode; byte 1 the mask bit and a length of 7 bits, or 126 and a u16, or 127 and a u64; then a mask of 4 bytes.

import type { Duplex, Writable } from 'node:stream'
import type { WebsocketPluginOptions } from '@fastify/websocket'
import { WebSocket } from 'ws'

/** FIN and the opcode of bytes, nothing reserved: a message that is one frame. */
const WHOLE_BINARY = 0x82
const MASKED = 0x80
const LENGTH_16 = 126
const LENGTH_64 = 127
const MASK_BYTES = 4
/** What a frame becomes frames of. A multiple of the mask's length, so that the mask begins anew with each. */
export const PIECE_BYTES = 1024 ** 2

/** Takes what comes from a client, in any portions, and returns the same with large frames of bytes divided. Of what is in frames nothing is copied. */
export class FrameSplitter {
  /** The beginning of a frame whose header is not whole yet. */
  #begun = Buffer.alloc(0)
  /** Of the frame that passes, up to its end or the next piece's beginning. */
  #left = 0n
  /** After that, of the frame that is divided. */
  #more = 0n
  #mask: Buffer = Buffer.alloc(0)

  split(data: Buffer): Buffer[] {
    const pieces: Buffer[] = []
    for (let rest = data; rest.length > 0;) {
      if (this.#left === 0n && this.#more > 0n) pieces.push(this.#nextHeader())
      if (this.#left > 0n) {
        const length = Number(this.#left < rest.length ? this.#left : BigInt(rest.length))
        pieces.push(rest.subarray(0, length))
        this.#left -= BigInt(length)
        rest = rest.subarray(length)
      } else {
        const before = this.#begun.length
        const bytes = before === 0 ? rest : Buffer.concat([this.#begun, rest])
        const headerBytes = headerLengthOf(bytes)
        if (headerBytes === undefined) {
          this.#begun = Buffer.from(bytes)
          break
        }
        this.#begun = Buffer.alloc(0)
        this.#begin(bytes.subarray(0, headerBytes), pieces)
        rest = rest.subarray(headerBytes - before)
      }
    }
    return pieces
  }

  #begin(header: Buffer, pieces: Buffer[]): void {
    const length = lengthOf(header)
    const isMasked = (header.readUInt8(1) & MASKED) !== 0
    if (header.readUInt8(0) !== WHOLE_BINARY || !isMasked || length <= PIECE_BYTES) {
      pieces.push(header)
      this.#left = length
      return
    }
    this.#mask = Buffer.from(header.subarray(-MASK_BYTES))
    this.#more = length
  }

  #nextHeader(): Buffer {
    this.#left = this.#more < PIECE_BYTES ? this.#more : BigInt(PIECE_BYTES)
    this.#more -= this.#left
    const header = Buffer.alloc(10)
    header.writeUInt8(WHOLE_BINARY, 0)
    header.writeUInt8(MASKED | LENGTH_64, 1)
    header.writeBigUInt64BE(this.#left, 2)
    return Buffer.concat([header, this.#mask])
  }
}

/** Of a frame, in bytes; undefined if too little of it is there to tell, or to hold it. */
function headerLengthOf(bytes: Buffer): number | undefined {
  if (bytes.length < 2) return undefined
  const second = bytes.readUInt8(1)
  const short = second & ~MASKED
  const lengthBytes = short === LENGTH_64 ? 8 : short === LENGTH_16 ? 2 : 0
  const all = 2 + lengthBytes + ((second & MASKED) === 0 ? 0 : MASK_BYTES)
  return bytes.length < all ? undefined : all
}

function lengthOf(header: Buffer): bigint {
  const short = header.readUInt8(1) & ~MASKED
  if (short === LENGTH_64) return header.readBigUInt64BE(2)
  return BigInt(short === LENGTH_16 ? header.readUInt16BE(2) : short)
}

/** What ws has, and its types don't tell. */
interface Inside {
  _receiver: Writable
  setSocket(socket: Duplex, head: Buffer, options: object): void
}

const Open = WebSocket as unknown as new (...given: ConstructorParameters<typeof WebSocket>) => WebSocket & Inside

/** A connection to a client whose large frames of bytes are divided before they are read. */
class SplittingSocket extends Open {
  override setSocket(socket: Duplex, head: Buffer, options: object): void {
    super.setSocket(socket, head, options)
    const splitter = new FrameSplitter()
    const { _receiver: receiver } = this
    const write = receiver.write.bind(receiver)
    receiver.write = (data: Buffer) => {
      let goesOn = true
      for (const piece of splitter.split(data)) {
        // After a frame that ended it, or that it could not read, nothing is read.
        if (receiver.writableEnded || receiver.destroyed) return false
        // All of it is taken, whatever it answers: false asks for no more from the client for a while.
        goesOn = write(piece)
      }
      return goesOn
    }
  }
}

/** For the plugin, what its connections are made of. */
export const splittingSocket = SplittingSocket as unknown as NonNullable<NonNullable<WebsocketPluginOptions['options']>['WebSocket']>
