import assert from 'node:assert/strict'
import type { Writable } from 'node:stream'
import { test } from 'node:test'
import fc from 'fast-check'
import * as ws from 'ws'
import { FrameSplitter, PIECE_BYTES } from './split-frames.ts'

/** What reads messages; its types don't tell of it. */
const { Receiver } = ws as unknown as { readonly Receiver: new (options: { isServer: boolean; maxPayload: number }) => Writable }

interface Heard {
  readonly bytes: Buffer
  readonly texts: string[]
  readonly pings: string[]
  readonly longest: number
}

/** A frame as a client sends it. */
function frame(opcode: number, payload: Buffer, { fin = true, mask = Buffer.from([1, 2, 3, 4]) } = {}): Buffer {
  const { length } = payload
  const header = Buffer.alloc(length < 126 ? 2 : length < 2 ** 16 ? 4 : 10)
  header.writeUInt8((fin ? 0x80 : 0) | opcode, 0)
  header.writeUInt8(0x80 | (header.length === 2 ? length : header.length === 4 ? 126 : 127), 1)
  if (header.length === 4) header.writeUInt16BE(length, 2)
  if (header.length === 10) header.writeBigUInt64BE(BigInt(length), 2)
  const masked = Buffer.from(payload)
  for (let at = 0; at < length; at += 1) masked[at] = (payload[at] ?? 0) ^ (mask[at % 4] ?? 0)
  return Buffer.concat([header, mask, masked])
}

const bytesOf = (length: number): Buffer => Buffer.from(Uint8Array.from({ length }, (_, at) => (at * 7 + (at >> 8)) & 0xff))

/** A stream that comes in such portions, one after the other and again, as it is passed on. */
function passed(stream: Buffer, portions: readonly number[]): Buffer[] {
  const splitter = new FrameSplitter()
  const pieces: Buffer[] = []
  for (let at = 0, turn = 0; at < stream.length; turn += 1) {
    const length = portions[turn % portions.length] ?? 1
    // A copy: what was passed on must not need what comes later.
    pieces.push(...splitter.split(Buffer.from(stream.subarray(at, at + length))))
    at += length
  }
  return pieces
}

/** What the library that reads messages makes of a stream that is divided first, cut into portions as they may come. */
async function hear(stream: Buffer, portions: readonly number[]): Promise<Heard> {
  const receiver = new Receiver({ isServer: true, maxPayload: 16 * 1024 ** 2 })
  const [bytes, texts, pings]: [Buffer[], string[], string[]] = [[], [], []]
  receiver.on('message', (data: Buffer, isBinary: boolean) => (isBinary ? bytes.push(data) : texts.push(data.toString())))
  receiver.on('ping', (data: Buffer) => pings.push(data.toString()))
  receiver.on('error', () => undefined) // whoever writes is told
  for (const piece of passed(stream, portions))
    await new Promise<void>((resolve, reject) => receiver.write(piece, (error) => (error instanceof Error ? reject(error) : resolve())))
  return { bytes: Buffer.concat(bytes), texts, pings, longest: Math.max(0, ...bytes.map(({ length }) => length)) }
}

test('a frame of bytes of any size arrives whole, in messages of a piece at most, however it is cut on the way', async () => {
  for (const length of [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 3 * PIECE_BYTES + 5]) {
    const payload = bytesOf(length)
    const heard = await hear(
      Buffer.concat([frame(1, Buffer.from('first')), frame(2, payload), frame(1, Buffer.from('last'))]),
      [65_536, 3, 1],
    )
    assert.ok(heard.bytes.equals(payload), `${length} bytes`)
    assert.deepEqual(heard.texts, ['first', 'last'])
    assert.ok(heard.longest <= PIECE_BYTES)
  }
})

test('a frame far larger than what is taken as one message takes no room to divide', () => {
  const length = 2 ** 40
  const header = Buffer.from([0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9])
  header.writeBigUInt64BE(BigInt(length), 2)
  const splitter = new FrameSplitter()
  assert.deepEqual(splitter.split(header), [])
  const [first, data] = splitter.split(Buffer.alloc(100))
  assert.equal(first?.readBigUInt64BE(2), BigInt(PIECE_BYTES))
  assert.equal(data?.length, 100)
})

test('whatever is sent in frames that are small, in parts, of text or of control is passed on byte for byte', () => {
  const anyFrame = fc.record({
    opcode: fc.constantFrom(0, 1, 2, 8, 9, 10),
    fin: fc.boolean(),
    payload: fc.uint8Array({ maxLength: 300 }).map((data) => Buffer.from(data)),
    mask: fc.uint8Array({ minLength: 4, maxLength: 4 }).map((data) => Buffer.from(data)),
  })
  fc.assert(
    fc.property(
      fc.array(anyFrame, { maxLength: 8 }),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 5 }),
      (frames, portions) => {
        const stream = Buffer.concat(frames.map(({ opcode, payload, ...how }) => frame(opcode, payload, how)))
        assert.ok(Buffer.concat(passed(stream, portions)).equals(stream))
      },
    ),
  )
})

test('text that is too long for a message is left to whoever refuses it', async () => {
  const text = frame(1, Buffer.alloc(17 * 1024 ** 2, 'x'))
  await assert.rejects(hear(text, [text.length]), /Max payload size exceeded/)
})
