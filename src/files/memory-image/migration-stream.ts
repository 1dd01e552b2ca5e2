// Splits QEMU's migration stream, as it comes, into a memory image (base file) and device state: constant memory, pages written once, in large writes.
// Facts: QEMU's docs/devel/migration and migration/{savevm,ram}.c (7.2), with `send-configuration=off` and `suppress-vmdesc=on`. All numbers big-endian:
//   u32 "QEVM", u32 version 3; then sections, each a type byte:
//   1 start: u32 id, u8 length + name, u32 instance, u32 version; 2 part, 3 end: u32 id; then, for RAM, records; then 0x7e and the id again.
//   A background snapshot has no end, its last part is followed by the devices, which QEMU kept until the memory was out
//   record:  u64, offset in its high bits and flags in the low 12; which flags mean what is below
//   4 full:  the first one begins the devices, which last until the end of the stream
// A format surprise is an error, never data.

import type { FileHandle } from 'node:fs/promises'
import { HypemanError } from '../../api/errors.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import { pageBytes } from './private-pages.ts'

const MAGIC = 0x5145_564d
const VERSION = 3
const sections = { start: 1, part: 2, end: 3, full: 4, footer: 0x7e } as const
const flagsOf = { fill: 0x02, blocks: 0x04, page: 0x08, end: 0x10, sameBlock: 0x20 } as const
const FLAG_BITS = 0xfffn
/** More device state than any machine has, in bytes. */
const LONGEST_STATE = 256 * 1024 ** 2
/** Pages written in one call. */
const PAGES_AT_ONCE = 256
/** A record without its page. */
const RECORD_BYTES = 8
/** After so many bytes the disk begins to write, while more come. */
const BYTES_BETWEEN_SYNCS = 64 * 1024 ** 2

export interface SplitTarget {
  /** Name of the RAM block that is the guest's memory; others (ROMs) are made anew by QEMU and dropped. */
  readonly block: string
  readonly ramBytes: number
  /** Both are empty. */
  readonly memory: FileHandle
  readonly state: FileHandle
}

/** Reads the stream to its end. Returns how many bytes of memory were written; the rest of the memory file is holes. Files are not synced. */
export async function splitMigrationStream(stream: AsyncIterable<Buffer>, target: SplitTarget): Promise<number> {
  return diskErrors("the guest's memory", async () => {
    const { memory, state } = target
    await memory.truncate(target.ramBytes)
    const pages = new PageWriter(memory, target.ramBytes)
    const parser = parse(target, pages)
    let wanted = nextOf(parser.next())
    let rest: Buffer = Buffer.alloc(0)
    let stateBytes = 0
    for await (const chunk of stream) {
      let data = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
      for (;;) {
        if (wanted === 'records') {
          data = data.subarray(pages.take(data))
          wanted = nextOf(parser.next(data))
        } else if (wanted !== 'state' && data.length >= wanted) {
          const piece = data.subarray(0, wanted)
          data = data.subarray(wanted)
          wanted = nextOf(parser.next(piece))
        } else break
      }
      await pages.write()
      if (wanted === 'state') {
        if (stateBytes === 0) await pages.finish()
        stateBytes += await appendState(state, stateBytes === 0 ? Buffer.concat([header(), data]) : data, stateBytes)
        data = Buffer.alloc(0)
      }
      rest = data
    }
    if (wanted !== 'state') throw surprise('it ended before the devices')
    return pages.bytes
  })
}

function header(): Buffer {
  const bytes = Buffer.alloc(9)
  bytes.writeUInt32BE(MAGIC)
  bytes.writeUInt32BE(VERSION, 4)
  bytes.writeUInt8(sections.full, 8) // the parser has taken it to know that the devices begin
  return bytes
}

async function appendState(state: FileHandle, data: Buffer, position: number): Promise<number> {
  if (position + data.length > LONGEST_STATE) throw surprise('the devices have no end')
  for (let done = 0; done < data.length;) done += (await state.write(data, done, data.length - done, position + done)).bytesWritten
  return data.length
}

/** Number of bytes that the parser needs next; `records`: whatever can be taken at once of the memory's own; `state`: all that comes is device state. */
type Wanted = number | 'records' | 'state'

function nextOf(step: IteratorResult<Wanted, void>): Wanted {
  if (step.done === true) throw new Error('the parser ended')
  return step.value
}

type Parser = Generator<Wanted, void, Buffer>
type Part<T> = Generator<Wanted, T, Buffer>

function* parse(target: SplitTarget, pages: PageWriter): Parser {
  if ((yield* u32()) !== MAGIC || (yield* u32()) !== VERSION) throw surprise('it is no migration stream of version 3')
  let ram: number | undefined
  let complete = false
  const known = { block: '' }
  for (;;) {
    const type = yield* u8()
    if (type === sections.full) break
    const id = yield* u32()
    if (type === sections.start) {
      const name = yield* text()
      if (name !== 'ram' || ram !== undefined) throw surprise(`a section ${JSON.stringify(name)} comes in parts`)
      yield 8 // instance and version: whoever reads the devices checks them
      ram = id
    } else if ((type !== sections.part && type !== sections.end) || id !== ram) throw surprise(`a section of type ${type} and id ${id}`)
    yield* records(target, pages, known)
    if ((yield* u8()) !== sections.footer || (yield* u32()) !== id) throw surprise('a section without its footer')
    complete = type !== sections.start
  }
  if (!complete) throw surprise('the devices come before the memory')
  for (;;) yield 'state'
}

/** Records up to the one that ends the section. */
function* records(target: SplitTarget, pages: PageWriter, known: { block: string }): Part<void> {
  for (;;) {
    // Nearly all of a stream is this: without a turn of the parser for each page.
    if (known.block === target.block) yield 'records'
    const word = (yield 8).readBigUInt64BE()
    const flags = Number(word & FLAG_BITS)
    const offset = Number(word & ~FLAG_BITS)
    if (flags === flagsOf.end) return
    if (flags === flagsOf.blocks) {
      yield* blockList(target, offset)
      continue
    }
    const kind = flags & ~flagsOf.sameBlock
    if (kind !== flagsOf.page && kind !== flagsOf.fill) throw surprise(`a record with the flags 0x${flags.toString(16)}`)
    if ((flags & flagsOf.sameBlock) === 0) known.block = yield* text()
    else if (known.block === '') throw surprise('a page of no block')
    const isMemory = known.block === target.block
    if (isMemory && offset + pageBytes > target.ramBytes) throw surprise(`a page at ${offset}`)
    if (kind === flagsOf.page) {
      const data = yield pageBytes
      if (isMemory) pages.add(offset, data)
    } else {
      const byte = yield* u8()
      if (isMemory) pages.fill(offset, byte)
    }
  }
}

function* blockList(target: SplitTarget, totalBytes: number): Part<void> {
  let found = false
  for (let left = totalBytes; left > 0;) {
    const name = yield* text()
    const bytes = Number((yield 8).readBigUInt64BE())
    if (bytes < 1 || bytes > left) throw surprise('a block that is larger than all')
    if (name === target.block && bytes !== target.ramBytes) throw surprise(`${name} has ${bytes} bytes instead of ${target.ramBytes}`)
    found ||= name === target.block
    left -= bytes
  }
  if (!found) throw surprise(`there is no block ${target.block}`)
}

function* u8(): Part<number> {
  return (yield 1).readUInt8()
}

function* u32(): Part<number> {
  return (yield 4).readUInt32BE()
}

function* text(): Part<string> {
  return (yield yield* u8()).toString('latin1')
}

function surprise(what: string): HypemanError {
  return new HypemanError('host_unavailable', `QEMU's memory stream can't be understood (${what}); nothing was saved`)
}

/** Gathers neighbouring pages into one write. A page of zeros that was not written before stays a hole. */
class PageWriter {
  readonly #file: FileHandle
  readonly #ramBytes: number
  readonly #written: Uint8Array
  readonly #full: { readonly position: number; readonly parts: Buffer[] }[] = []
  #parts: Buffer[] = []
  #position = 0
  #syncedFrom = 0
  #syncing: Promise<void> = Promise.resolve()
  bytes = 0

  constructor(file: FileHandle, ramBytes: number) {
    this.#file = file
    this.#ramBytes = ramBytes
    this.#written = new Uint8Array(Math.ceil(ramBytes / pageBytes / 8))
  }

  /**
   * Takes the records at the beginning of a piece of the stream that are whole pages of the block that the record before them named, and returns their
   * length in bytes. What it leaves is for the parser, and so is every surprise.
   */
  take(data: Buffer): number {
    let at = 0
    for (;;) {
      if (at + RECORD_BYTES > data.length) return at
      const low = data.readUInt32BE(at + 4)
      const flags = low & 0xfff
      const offset = data.readUInt32BE(at) * 2 ** 32 + (low - flags)
      if (offset + pageBytes > this.#ramBytes) return at
      if (flags === (flagsOf.page | flagsOf.sameBlock)) {
        const end = at + RECORD_BYTES + pageBytes
        if (end > data.length) return at
        this.add(offset, data.subarray(at + RECORD_BYTES, end))
        at = end
      } else if (flags === (flagsOf.fill | flagsOf.sameBlock)) {
        if (at + RECORD_BYTES + 1 > data.length) return at
        this.fill(offset, data.readUInt8(at + RECORD_BYTES))
        at += RECORD_BYTES + 1
      } else return at
    }
  }

  /** `data` must stay as it is until it is written. */
  add(offset: number, data: Buffer): void {
    if (offset !== this.#position + this.#parts.length * pageBytes || this.#parts.length === PAGES_AT_ONCE) this.#cut(offset)
    this.#parts.push(data)
    const page = offset / pageBytes
    this.#written[page >> 3] = (this.#written[page >> 3] ?? 0) | (1 << (page & 7))
  }

  fill(offset: number, byte: number): void {
    const page = offset / pageBytes
    const wasWritten = ((this.#written[page >> 3] ?? 0) & (1 << (page & 7))) !== 0
    if (byte !== 0 || wasWritten) this.add(offset, Buffer.alloc(pageBytes, byte))
  }

  /** Writes what is whole; a stretch that may go on waits. */
  async write(): Promise<void> {
    for (const { position, parts } of this.#full.splice(0)) await this.#put(parts, position)
    if (this.bytes - this.#syncedFrom < BYTES_BETWEEN_SYNCS) return
    await this.#syncing
    this.#syncedFrom = this.bytes
    this.#syncing = this.#file.datasync()
    this.#syncing.catch(() => undefined) // whoever waits for it is told
  }

  async finish(): Promise<void> {
    this.#cut(0)
    await this.write()
    await this.#syncing
  }

  #cut(next: number): void {
    if (this.#parts.length > 0) this.#full.push({ position: this.#position, parts: this.#parts })
    this.#parts = []
    this.#position = next
  }

  async #put(parts: readonly Buffer[], position: number): Promise<void> {
    const bytes = parts.length * pageBytes
    const { bytesWritten } = await this.#file.writev(parts, position)
    if (bytesWritten < bytes) {
      // A short write is rare: the rest goes page by page.
      const all = Buffer.concat(parts)
      for (let done = bytesWritten; done < bytes;) done += (await this.#file.write(all, done, bytes - done, position + done)).bytesWritten
    }
    this.bytes += bytes
  }
}
