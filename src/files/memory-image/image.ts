// Memory images: a sparse base file at the pages' own offsets, and one cumulative diff over a base in an explicit format.
// A diff file is: 64-byte header, run table, padding to a page, then the pages of the runs in order. All numbers little-endian.
//   header: "HMMDIFF1" · u32 page size · u32 0 · u64 RAM bytes · u64 number of runs · u64 offset of the first page · zeros
//   run:    u64 first page · u64 number of pages

import { open, stat, type FileHandle } from 'node:fs/promises'
import { HypemanError } from '../../api/errors.ts'
import { copyPayload } from '../copy.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import {
  COPY_BYTES,
  openMemory,
  pageBytes,
  readBatches,
  readFully,
  readPages,
  writeFully,
  type Mapping,
  type PageRun,
} from './private-pages.ts'

const magic = Buffer.from('HMMDIFF1', 'latin1')
const HEADER_BYTES = 64
const RUN_BYTES = 16
const zeroPage = Buffer.alloc(pageBytes)

/** Makes a file of holes: guest memory that nobody has touched. */
export async function createHoles(file: string, bytes: number): Promise<void> {
  await diskErrors(file, async () => {
    await using handle = await open(file, 'wx', 0o600)
    await handle.truncate(bytes)
  })
}

/** Writes the pages of a process whose base is holes as a new base: zero pages stay holes. Returns the bytes written. */
export async function saveAsBase(mapping: Mapping, runs: readonly PageRun[], file: string, signal?: AbortSignal): Promise<number> {
  return diskErrors(file, async () => {
    await using target = await open(file, 'wx', 0o600)
    await target.truncate(mapping.bytes)
    let written = 0
    for await (const { page, data } of readPages(mapping, runs, signal)) written += await writeNonZero(target, data, page * pageBytes)
    return written
  })
}

/** Writes but for the pages of zeros, which stay holes. Returns the bytes written. */
async function writeNonZero(target: FileHandle, data: Buffer, position: number): Promise<number> {
  let written = 0
  for (const { from, to } of nonZeroPieces(data)) {
    await writeFully(target, data.subarray(from, to), position + from)
    written += to - from
  }
  return written
}

/** Stretches of a page-aligned buffer that hold something else than zeros. */
function* nonZeroPieces(data: Buffer): Generator<{ readonly from: number; readonly to: number }> {
  let from = -1
  for (let at = 0; at < data.length; at += pageBytes) {
    const isZero = data.compare(zeroPage, 0, pageBytes, at, at + pageBytes) === 0
    if (!isZero && from < 0) from = at
    if (isZero && from >= 0) {
      yield { from, to: at }
      from = -1
    }
  }
  if (from >= 0) yield { from, to: data.length }
}

/** Most that is kept in memory of a diff, in bytes: what a guest has to stand still for is then the reading alone. */
const HELD_BYTES = 16 * 1024 ** 2

/** Pages of a process that were read while it stood still. */
export interface CapturedDiff {
  /** Of the file. */
  readonly bytes: number
  /** Writes what is not written yet. */
  finish(): Promise<void>
}

/** Writes the pages of a process as a diff over its base, those of zeros as holes. Returns the bytes of the file. */
export async function saveAsDiff(mapping: Mapping, runs: readonly PageRun[], file: string, signal?: AbortSignal): Promise<number> {
  const captured = await captureDiff(mapping, runs, file, signal)
  await captured.finish()
  return captured.bytes
}

/** Reads the pages for a diff: when it returns, the process may go on. A large diff is written by then, a small one not yet. */
export async function captureDiff(
  mapping: Mapping,
  runs: readonly PageRun[],
  file: string,
  signal: AbortSignal | undefined,
): Promise<CapturedDiff> {
  signal?.throwIfAborted()
  const table = tableOf(mapping, runs)
  const pagesBytes = runs.reduce((sum, { count }) => sum + count, 0) * pageBytes
  const bytes = table.length + pagesBytes
  if (pagesBytes <= HELD_BYTES) {
    const held = readBatches(mapping, runs, (length) => Buffer.allocUnsafeSlow(length))
      .map(({ data }) => data)
      .toArray()
    return { bytes, finish: () => writeDiff(file, table, held, bytes) }
  }
  // The next batch is read while one is written.
  const buffers = [Buffer.allocUnsafeSlow(COPY_BYTES), Buffer.allocUnsafeSlow(COPY_BYTES)]
  let turn = 0
  const next = (length: number): Buffer => (buffers[(turn ^= 1)] ?? Buffer.alloc(0)).subarray(0, length)
  const batches = readBatches(mapping, runs, next).map(({ data }) => {
    signal?.throwIfAborted()
    return data
  })
  await writeDiff(file, table, batches, bytes)
  return { bytes, finish: () => Promise.resolve() }
}

/** Header and runs, up to where the pages begin. */
function tableOf(mapping: Mapping, runs: readonly PageRun[]): Buffer {
  const length = HEADER_BYTES + runs.length * RUN_BYTES
  const table = Buffer.alloc(Math.ceil(length / pageBytes) * pageBytes)
  magic.copy(table)
  table.writeUInt32LE(pageBytes, 8)
  table.writeBigUInt64LE(BigInt(mapping.bytes), 16)
  table.writeBigUInt64LE(BigInt(runs.length), 24)
  table.writeBigUInt64LE(BigInt(table.length), 32)
  runs.forEach((run, index) => {
    table.writeBigUInt64LE(BigInt(run.first), HEADER_BYTES + index * RUN_BYTES)
    table.writeBigUInt64LE(BigInt(run.count), HEADER_BYTES + index * RUN_BYTES + 8)
  })
  return table
}

/** A batch is written while the next one is taken, and no longer used when the one after that is. */
async function writeDiff(file: string, table: Buffer, batches: Iterable<Buffer>, bytes: number): Promise<void> {
  await diskErrors(file, async () => {
    await using target = await open(file, 'wx', 0o600)
    await writeFully(target, table, 0)
    let position = table.length
    let writing: Promise<unknown> = Promise.resolve()
    try {
      for (const data of batches) {
        await writing
        writing = writeNonZero(target, data, position)
        writing.catch(() => undefined) // whoever waits for it is told
        position += data.length
      }
    } finally {
      // Nothing is written to a file that is closed.
      await writing
    }
    await target.truncate(bytes)
  })
}

interface Diff {
  readonly runs: readonly PageRun[]
  readonly dataOffset: number
}

/** Reads and checks the table of a diff; a surprise is an error, never data. */
async function readDiff(handle: FileHandle, file: string, ramBytes: number): Promise<Diff> {
  const damaged = (what: string): HypemanError =>
    new HypemanError(
      'corrupt_snapshot',
      `the memory image ${file} is damaged (${what}); use another snapshot, or target_state Stopped to start from the disks`,
    )
  const { size } = await handle.stat()
  if (size < HEADER_BYTES) throw damaged('too short')
  const header = Buffer.alloc(HEADER_BYTES)
  await readFully(handle, header, 0)
  const runCount = Number(header.readBigUInt64LE(24))
  const dataOffset = Number(header.readBigUInt64LE(32))
  if (!header.subarray(0, 8).equals(magic) || header.readUInt32LE(8) !== pageBytes) throw damaged('not a diff of this version')
  if (Number(header.readBigUInt64LE(16)) !== ramBytes) throw damaged('made for another size of memory')
  if (runCount > ramBytes / pageBytes) throw damaged('more runs than pages')
  if (dataOffset !== Math.ceil((HEADER_BYTES + runCount * RUN_BYTES) / pageBytes) * pageBytes || dataOffset > size)
    throw damaged('the table does not fit')
  const table = Buffer.alloc(runCount * RUN_BYTES)
  await readFully(handle, table, HEADER_BYTES)
  const runs: PageRun[] = []
  let [next, pages] = [0, 0]
  for (let index = 0; index < runCount; index += 1) {
    const run = { first: Number(table.readBigUInt64LE(index * RUN_BYTES)), count: Number(table.readBigUInt64LE(index * RUN_BYTES + 8)) }
    if (run.first < next || run.count < 1 || (run.first + run.count) * pageBytes > ramBytes) throw damaged('runs out of order')
    runs.push(run)
    next = run.first + run.count
    pages += run.count
  }
  if (dataOffset + pages * pageBytes !== size) throw damaged('pages are missing')
  return { runs, dataOffset }
}

/** The pages of a diff, in pieces of at most `COPY_BYTES`. The buffer is reused. */
async function* diffPages(file: string, ramBytes: number): AsyncGenerator<{ readonly page: number; readonly data: Buffer }> {
  await using handle = await open(file, 'r')
  const { runs, dataOffset } = await readDiff(handle, file, ramBytes)
  const buffer = Buffer.allocUnsafeSlow(COPY_BYTES)
  let position = dataOffset
  for (const run of runs)
    for (let done = 0; done < run.count;) {
      const data = buffer.subarray(0, Math.min(COPY_BYTES, (run.count - done) * pageBytes))
      await readFully(handle, data, position)
      yield { page: run.first + done, data }
      position += data.length
      done += data.length / pageBytes
    }
}

/** Checks a diff's table without reading its pages. */
export async function checkDiff(file: string, ramBytes: number): Promise<void> {
  await using handle = await open(file, 'r')
  await readDiff(handle, file, ramBytes)
}

/** Writes a diff's pages into a process that maps the base, before its guest runs. */
export async function applyDiffToProcess(file: string, mapping: Mapping): Promise<void> {
  await using memory = await openMemory(mapping)
  for await (const { page, data } of diffPages(file, mapping.bytes)) await memory.writePages(page, data)
}

/** Makes a new base of a base and a diff over it: what both are together. Whoever commits the directory, or names the base, syncs it. */
export async function mergeDiff(base: string, diff: string, target: string, signal?: AbortSignal): Promise<void> {
  const { size } = await stat(base)
  await diskErrors(target, async () => {
    await copyPayload(base, target, { durable: false, ...(signal === undefined ? {} : { signal }) })
    await using handle = await open(target, 'r+')
    for await (const { page, data } of diffPages(diff, size)) {
      signal?.throwIfAborted()
      await writeFully(handle, data, page * pageBytes)
    }
  })
}
