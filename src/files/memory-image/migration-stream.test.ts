// Streams as QEMU writes them, made here byte by byte and cut anywhere: what comes out is the memory and the devices, or an error.

import assert from 'node:assert/strict'
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../../api/errors.ts'
import { splitMigrationStream } from './migration-stream.ts'

const PAGE = 4096
const PAGES = 64
const ramBytes = PAGES * PAGE

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

function named(name: string): Buffer {
  return Buffer.concat([Buffer.of(name.length), Buffer.from(name)])
}

const preamble = Buffer.concat([Buffer.from('QEVM'), u32(3)])
const end = u64(0x10)
const blocks = Buffer.concat([u64((ramBytes + 2 * PAGE) | 4), named('mem'), u64(ramBytes), named('pc.bios'), u64(2 * PAGE)])
const startOf = (...body: Buffer[]): Buffer =>
  Buffer.concat([Buffer.of(1), u32(2), named('ram'), u32(0), u32(4), ...body, end, Buffer.of(0x7e), u32(2)])
const partOf = (type: 2 | 3, ...body: Buffer[]): Buffer => Buffer.concat([Buffer.of(type), u32(2), ...body, end, Buffer.of(0x7e), u32(2)])
const devices = Buffer.concat([Buffer.of(4), u32(7), named('timer'), Buffer.alloc(100, 9), Buffer.of(0)])

interface Record {
  readonly block: string
  readonly page: number
  /** A number is a page filled with it. */
  readonly content: Buffer | number
}

/** Records in QEMU's form: a block is named when it changes. */
function recordsOf(records: readonly Record[], blockBefore = ''): Buffer {
  let block = blockBefore
  return Buffer.concat(
    records.map((one) => {
      const kind = typeof one.content === 'number' ? 2 : 8
      const name = one.block === block ? [] : [named(one.block)]
      const flags = kind | (one.block === block ? 0x20 : 0)
      block = one.block
      return Buffer.concat([u64(one.page * PAGE + flags), ...name, typeof one.content === 'number' ? Buffer.of(one.content) : one.content])
    }),
  )
}

function* cut(bytes: Buffer, sizes: readonly number[]): Generator<Buffer> {
  for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
    const size = sizes[turn % sizes.length] ?? bytes.length
    yield bytes.subarray(at, at + size)
    at += size
  }
}

async function split(
  bytes: Buffer,
  sizes: readonly number[] = [bytes.length],
): Promise<{ memory: Buffer; state: Buffer; bytes: number; blocks: number }> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'hm-stream-'))
  try {
    const [memoryFile, stateFile] = [path.join(directory, 'memory'), path.join(directory, 'state')]
    async function* stream(): AsyncGenerator<Buffer> {
      yield* cut(bytes, sizes)
    }
    await using memory = await open(memoryFile, 'wx')
    await using state = await open(stateFile, 'wx')
    const written = await splitMigrationStream(stream(), { block: 'mem', ramBytes, memory, state })
    return { memory: await readFile(memoryFile), state: await readFile(stateFile), bytes: written, blocks: (await stat(memoryFile)).blocks }
  } finally {
    await rm(directory, { recursive: true })
  }
}

test('pages of any order and blocks, cut anywhere, come out where they belong, and the devices behind them', async () => {
  const record = fc.record({
    block: fc.constantFrom('mem', 'mem', 'mem', 'pc.bios'),
    page: fc.nat(PAGES - 1),
    content: fc.oneof(
      fc.constant(0),
      fc.nat(255),
      fc.uint8Array({ minLength: PAGE, maxLength: PAGE }).map((data) => Buffer.from(data)),
    ),
  })
  const sizes = fc.array(fc.integer({ min: 1, max: 3 * PAGE }), { minLength: 1, maxLength: 8 })
  await fc.assert(
    fc.asyncProperty(fc.array(record, { maxLength: 60 }), fc.array(record, { maxLength: 20 }), sizes, async (first, last, pieces) => {
      const expected = Buffer.alloc(ramBytes)
      for (const { block, page, content } of [...first, ...last])
        if (block === 'mem') expected.set(typeof content === 'number' ? Buffer.alloc(PAGE, content) : content, page * PAGE)
      const before = first.at(-1)?.block
      const out = await split(
        Buffer.concat([preamble, startOf(blocks), partOf(2, recordsOf(first)), partOf(3, recordsOf(last, before)), devices]),
        pieces,
      )
      assert.ok(out.memory.equals(expected))
      assert.ok(out.state.equals(Buffer.concat([preamble, devices])))
    }),
    { numRuns: 60 },
  )
})

test('memory that is zero stays a hole', async () => {
  const zeros = Array.from({ length: PAGES }, (_, page) => ({ block: 'mem', page, content: 0 }))
  const out = await split(Buffer.concat([preamble, startOf(blocks), partOf(3, recordsOf(zeros)), devices]))
  assert.deepEqual([out.bytes, out.blocks, out.memory.length], [0, 0, ramBytes])
})

const page = { block: 'mem', page: 1, content: 7 }
const whole = Buffer.concat([preamble, startOf(blocks), partOf(3, recordsOf([page])), devices])
const surprises: Readonly<{ [what: string]: Buffer }> = {
  'another magic': Buffer.concat([Buffer.from('QEVX'), whole.subarray(4)]),
  'another version': Buffer.concat([Buffer.from('QEVM'), u32(4), whole.subarray(8)]),
  nothing: Buffer.alloc(0),
  'a section of something else in parts': Buffer.concat([preamble, Buffer.of(1), u32(3), named('block'), u32(0), u32(1)]),
  'a part of no section': Buffer.concat([preamble, partOf(2, recordsOf([page]))]),
  'an unknown section': Buffer.concat([preamble, Buffer.of(8), u32(1)]),
  'a missing footer': Buffer.concat([preamble, startOf(blocks).subarray(0, -5), Buffer.of(0x7d), u32(2)]),
  'a page beyond the memory': Buffer.concat([preamble, startOf(blocks), partOf(3, recordsOf([{ ...page, page: PAGES }])), devices]),
  'an unknown record': Buffer.concat([preamble, startOf(blocks), partOf(3, u64(0x40))]),
  'a page of no block': Buffer.concat([preamble, startOf(blocks), partOf(3, u64(0x28), Buffer.alloc(PAGE))]),
  'memory of another size': Buffer.concat([preamble, startOf(Buffer.concat([u64(PAGE | 4), named('mem'), u64(PAGE)]))]),
  'no memory': Buffer.concat([preamble, startOf(Buffer.concat([u64(PAGE | 4), named('ram0'), u64(PAGE)]))]),
  'devices before the memory is there': Buffer.concat([preamble, startOf(blocks), devices]),
}
for (const [what, bytes] of Object.entries(surprises))
  test(`${what} is an error, never data`, async () => {
    await assert.rejects(
      split(bytes, [1000]),
      (error) => isHypemanError(error, 'host_unavailable') && /can't be understood/.test(error.message),
    )
  })

test('a stream that breaks off anywhere before the devices is an error', async () => {
  for (let length = 0; length < whole.length - devices.length; length += 97)
    await assert.rejects(split(whole.subarray(0, length)), (error) => isHypemanError(error, 'host_unavailable'))
})
