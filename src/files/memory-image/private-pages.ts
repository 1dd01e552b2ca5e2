// Which pages of a privately mapped file a process has made its own, and copying them out of (or into) its memory.
// Facts: proc(5), Documentation/admin-guide/mm/pagemap.rst: one 64-bit entry a page; bit 63 present, 62 swapped, 61 file page or shared.

import { writeSync } from 'node:fs'
import { open, readFile, stat, type FileHandle } from 'node:fs/promises'
import { setImmediate } from 'node:timers/promises'
import { HypemanError } from '../../api/errors.ts'
import { scanPrivate } from './pagemap-scan.ts'
import { MOST_PARTS, readParts, readPartsElsewhere } from './process-memory.ts'

export const pageBytes = 4096
/** Pagemap entries read at once: 256 KiB of pagemap, 128 MiB of guest memory. */
const ENTRIES_AT_ONCE = 32_768
/** Longest copy in one read, in bytes: large enough that the calls don't count, small enough to stay in a cache. */
export const COPY_BYTES = 1024 * 1024

/** A run of pages: first page and number of pages, counted from the start of the mapping. */
export interface PageRun {
  readonly first: number
  readonly count: number
}

/** Where a process maps a file. */
export interface Mapping {
  readonly pid: number
  readonly address: number
  readonly bytes: number
  /** File name without directories, as the kernel shows it; empty for anonymous memory. */
  readonly file: string
  /** `<device>:<inode>` as the kernel shows it. */
  readonly inode: string
}

/** Finds the mapping of a file whose name matches; a process without one is an error. */
export async function findMapping(pid: number, name: RegExp, bytes: number): Promise<Mapping> {
  const found = await lookForMapping(pid, name, bytes)
  if (found !== undefined) return found
  throw new HypemanError(
    'host_unavailable',
    `the process ${pid} does not map its guest memory of ${bytes} bytes from a file; it can't be saved`,
  )
}

/** The mapping of a file whose name matches, if there is one; a file that was renamed or removed since is still found. */
export async function lookForMapping(pid: number, name: RegExp, bytes: number): Promise<Mapping | undefined> {
  for (const line of (await readProc(`/proc/${pid}/maps`)).split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+) +(.*)$/.exec(line)
    if (match === null) continue
    const [, from = '', to = '', offset = '', inode = '', path = ''] = match
    const file = path.replace(/ \(deleted\)$/, '').replace(/^.*\//, '')
    const [start, end] = [Number.parseInt(from, 16), Number.parseInt(to, 16)]
    if (name.test(file) && end - start === bytes && Number.parseInt(offset, 16) === 0) return { pid, address: start, bytes, file, inode }
  }
  return undefined
}

/** True if the file is the one that is mapped, not another that took its name. */
export async function isMappedFile(mapping: Mapping, file: string): Promise<boolean> {
  return String((await stat(file)).ino) === mapping.inode
}

/**
 * Pages that are no longer the file's: written by the process since it mapped them. In order, adjacent runs joined. Of anonymous memory, pages that were only
 * read need not be among them. `search` returns undefined where the kernel can't.
 */
export async function privatePages(mapping: Mapping, search: typeof scanPrivate = scanPrivate): Promise<PageRun[]> {
  await using pagemap = await openProc(`/proc/${mapping.pid}/pagemap`)
  const { address, bytes } = mapping
  const regions = search(pagemap.fd, address, address + bytes, mapping.file === '')
  if (regions === undefined) return await readPrivate(pagemap, mapping)
  return regions.map(({ start, end }) => ({ first: (start - address) / pageBytes, count: (end - start) / pageBytes }))
}

/** The same by looking at every page, on kernels that can't search. */
async function readPrivate(pagemap: FileHandle, mapping: Mapping): Promise<PageRun[]> {
  const runs: { first: number; count: number }[] = []
  const pages = mapping.bytes / pageBytes
  const buffer = Buffer.alloc(ENTRIES_AT_ONCE * 8)
  for (let page = 0; page < pages;) {
    const wanted = Math.min(ENTRIES_AT_ONCE, pages - page)
    await readFully(pagemap, buffer.subarray(0, wanted * 8), (mapping.address / pageBytes + page) * 8)
    const words = new Uint32Array(buffer.buffer, buffer.byteOffset, wanted * 2)
    for (let index = 0; index < wanted; index += 1) {
      const high = words[index * 2 + 1] ?? 0
      // Present and not the file's, or swapped out (only private pages of a file mapping are).
      const isPrivate = (high & 0x8000_0000) !== 0 ? (high & 0x2000_0000) === 0 : (high & 0x4000_0000) !== 0
      if (!isPrivate) continue
      const last = runs.at(-1)
      if (last !== undefined && last.first + last.count === page + index) last.count += 1
      else runs.push({ first: page + index, count: 1 })
    }
    page += wanted
  }
  return runs
}

const PAGES_AT_ONCE = COPY_BYTES / pageBytes

/** Pages of some runs (or parts of long ones), one behind the other. */
export interface PageBatch {
  readonly runs: readonly PageRun[]
  readonly data: Buffer
}

/** The runs cut so that each group has at most `COPY_BYTES`, and no more parts than one call takes. */
function* groupsOf(runs: readonly PageRun[]): Generator<readonly PageRun[]> {
  let [group, room]: [PageRun[], number] = [[], PAGES_AT_ONCE]
  for (const run of runs)
    for (let done = 0; done < run.count;) {
      const count = Math.min(run.count - done, room)
      group.push({ first: run.first + done, count })
      done += count
      room -= count
      if (room > 0 && group.length < MOST_PARTS) continue
      yield group
      ;[group, room] = [[], PAGES_AT_ONCE]
    }
  if (group.length > 0) yield group
}

/** What one call reads: the addresses and lengths of its runs, in turns. */
interface PageRead {
  readonly runs: readonly PageRun[]
  readonly parts: BigUint64Array
  readonly bytes: number
}

function* readsOf(mapping: Mapping, runs: readonly PageRun[]): Generator<PageRead> {
  for (const group of groupsOf(runs)) {
    const parts = new BigUint64Array(group.length * 2)
    let bytes = 0
    for (const [index, { first, count }] of group.entries()) {
      parts[index * 2] = BigInt(mapping.address + first * pageBytes)
      parts[index * 2 + 1] = BigInt(count * pageBytes)
      bytes += count * pageBytes
    }
    yield { runs: group, parts, bytes }
  }
}

/**
 * Reads the pages of the runs out of a process, in order. `room` gives the buffer for the next `bytes`, at most `COPY_BYTES`. The call waits for pages that are
 * swapped out, so that whoever reads much takes turns with others between batches.
 */
export function* readBatches(mapping: Mapping, runs: readonly PageRun[], room: (bytes: number) => Buffer): Generator<PageBatch> {
  for (const { runs: group, parts, bytes } of readsOf(mapping, runs)) {
    const data = room(bytes)
    readParts(mapping.pid, parts, data)
    yield { runs: group, data }
  }
}

/** Less is read at once in less time than a thread takes to hear of it. */
const MUCH_BYTES = 8 * COPY_BYTES
/** Reads under way at once: as many as Node has threads for them. */
const READS_AT_ONCE = 4

/** Reads the pages of the runs, which are as many as `into` has room for, one behind the other. Many are read by several threads: one is not as fast as the memory. */
export async function readAll(mapping: Mapping, runs: readonly PageRun[], into: Buffer): Promise<void> {
  let at = 0
  const reads = readsOf(mapping, runs).map((read) => ({ ...read, data: into.subarray(at, (at += read.bytes)) }))
  if (into.length < MUCH_BYTES) {
    for (const { parts, data } of reads) readParts(mapping.pid, parts, data)
    return
  }
  const inTurn = async (): Promise<void> => {
    for (const { parts, data } of reads) await readPartsElsewhere(mapping.pid, parts, data)
  }
  await Promise.all(Array.from({ length: READS_AT_ONCE }, inTurn))
}

/** Reads the pages of the runs out of the process, in pieces of at most `COPY_BYTES`, in order. The buffer is reused: consume it before the next. */
export async function* readPages(
  mapping: Mapping,
  runs: readonly PageRun[],
  signal?: AbortSignal,
): AsyncGenerator<{ readonly page: number; readonly data: Buffer }> {
  const buffer = Buffer.allocUnsafeSlow(COPY_BYTES)
  for (const batch of readBatches(mapping, runs, (bytes) => buffer.subarray(0, bytes))) {
    signal?.throwIfAborted()
    let at = 0
    for (const { first, count } of batch.runs) {
      yield { page: first, data: batch.data.subarray(at, at + count * pageBytes) }
      at += count * pageBytes
    }
    await setImmediate()
  }
}

/** What is written without handing it to Node's threads, which takes longer than writing a few pages to memory. In between, each piece of `COPY_BYTES` is read by them. */
const AT_ONCE_BYTES = 64 * 1024

/** Opens the process's memory for writing pages into it, before its guest runs. */
export async function openMemory(mapping: Mapping): Promise<{ writePages(page: number, data: Buffer): Promise<void> } & AsyncDisposable> {
  const memory = await openProc(`/proc/${mapping.pid}/mem`, 'r+')
  return {
    async writePages(page, data) {
      const position = mapping.address + page * pageBytes
      if (data.length > AT_ONCE_BYTES) return await writeFully(memory, data, position)
      for (let done = 0; done < data.length;) done += writeSync(memory.fd, data, done, data.length - done, position + done)
    },
    [Symbol.asyncDispose]: () => memory.close(),
  }
}

export async function readFully(file: FileHandle, into: Buffer, position: number): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done)
    if (bytesRead === 0) throw new Error(`the file ended ${into.length - done} bytes too early`)
    done += bytesRead
  }
}

export async function writeFully(file: FileHandle, data: Buffer, position: number): Promise<void> {
  for (let done = 0; done < data.length;) done += (await file.write(data, done, data.length - done, position + done)).bytesWritten
}

async function openProc(file: string, flags = 'r'): Promise<FileHandle> {
  try {
    return await open(file, flags)
  } catch (cause) {
    throw needsRights(file, cause)
  }
}

async function readProc(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    throw needsRights(file, cause)
  }
}

function needsRights(file: string, cause: unknown): HypemanError {
  return new HypemanError(
    'host_unavailable',
    `guest memory can't be read through ${file}: run the server as root, or allow it to trace its own children (kernel.yama.ptrace_scope)`,
    { cause },
  )
}
