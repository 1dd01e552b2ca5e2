// The frames of yamux (HashiCorp's published framing, version 0) and how data is cut into them. Pure.

/** `renewal` is not yamux's but guest/protocol.md's: one message and its answer, without a stream. */
export const frameTypes = { data: 0, windowUpdate: 1, ping: 2, goAway: 3, renewal: 16 } as const
export const frameFlags = { syn: 1, ack: 2, fin: 4, rst: 8 } as const

export const HEADER_BYTES = 12
/** Receive window of each stream, both ways, in bytes. */
export const WINDOW_BYTES = 262_144
/** Longest data frame, so that no stream holds the channel for long; guest/protocol.md. */
export const LONGEST_FRAME = 32_768

/** Longest answer to a renewal, in bytes. */
export const LONGEST_RENEWAL = 65_536

export function headerOf(type: number, flags: number, stream: number, length: number): Buffer {
  const header = Buffer.alloc(HEADER_BYTES)
  header.writeUInt8(type, 1)
  header.writeUInt16BE(flags, 2)
  header.writeUInt32BE(stream, 4)
  header.writeUInt32BE(length, 8)
  return header
}

/**
 * How much of `data` may go into the next data frame, so that `forbidden` never appears whole on the wire, also not begun by the frame's header. A frame's end and the
 * next header can't make it up: for that the header would need the type 0xa7.
 */
export function safeLength(data: Buffer, forbidden: Buffer): number {
  const longest = Math.min(data.length, LONGEST_FRAME)
  const found = data.subarray(0, longest).indexOf(forbidden)
  // The middle, since what comes next must not be completed by the last byte of its own header.
  const length = found < 0 ? longest : found + forbidden.length / 2
  const completesHeader = (length & 0xff) === forbidden[0] && data.subarray(0, forbidden.length - 1).equals(forbidden.subarray(1))
  return completesHeader ? length - 1 : length
}
