// Diff files of memory images: pages over a base, or over the diffs before it. Nobody writes them again.
// A diff file is: 64-byte header, run table, padding to a page, then the pages of the runs in order. All numbers little-endian.
//   header: "HMMDIFF1" · u32 page size · u32 0 · u64 RAM bytes · u64 number of runs · u64 offset of the first page · zeros
//   run:    u64 first page · u64 number of pages

import { constants } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { HypemanError } from '../../api/errors.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import { COPY_BYTES, pageBytes, readFully, writeFully, type PageRun } from './private-pages.ts'

const magic = Buffer.from('HMMDIFF1', 'latin1')
const HEADER_BYTES = 64
const RUN_BYTES = 16
const zeroPage = Buffer.alloc(pageBytes)
const OVER = constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW

/** Bytes of the file of a diff with these runs. */
export function diffBytes(runs: readonly PageRun[]): number {
  return dataOffsetOf(runs.length) + pagesOf(runs) * pageBytes
}

export function pagesOf(runs: readonly PageRun[]): number {
  return runs.reduce((sum, { count }) => sum + count, 0)
}

function dataOffsetOf(runCount: number): number {
  return Math.ceil((HEADER_BYTES + runCount * RUN_BYTES) / pageBytes) * pageBytes
}

/** `new`: the file is not there yet, and pages of zeros become holes. `over`: it may be there, and what it holds is written over, its blocks and cached pages used again. */
type HowWritten = 'new' | 'over'

/**
 * Writes a diff: the pages of its runs come in batches. A batch is written while the next one is taken, and no longer used when the one after that is. Returns the
 * bytes of the file.
 */
export async function writeDiff(
  file: string,
  ramBytes: number,
  runs: readonly PageRun[],
  batches: Iterable<Buffer> | AsyncIterable<Buffer>,
  how: HowWritten = 'new',
): Promise<number> {
  const table = tableOf(ramBytes, runs)
  const bytes = diffBytes(runs)
  const write = how === 'new' ? writeNonZero : writeFully
  await diskErrors(file, async () => {
    await using target = await open(file, how === 'new' ? 'wx' : OVER, 0o600)
    await writeFully(target, table, 0)
    let position = table.length
    let writing: Promise<unknown> = Promise.resolve()
    try {
      for await (const data of batches) {
        await writing
        writing = write(target, data, position)
        writing.catch(() => undefined) // whoever waits for it is told
        position += data.length
      }
    } finally {
      // Nothing is written to a file that is closed.
      await writing
    }
    await target.truncate(bytes)
  })
  return bytes
}

/** Header and runs, up to where the pages begin. */
function tableOf(ramBytes: number, runs: readonly PageRun[]): Buffer {
  const table = Buffer.alloc(dataOffsetOf(runs.length))
  magic.copy(table)
  table.writeUInt32LE(pageBytes, 8)
  table.writeBigUInt64LE(BigInt(ramBytes), 16)
  table.writeBigUInt64LE(BigInt(runs.length), 24)
  table.writeBigUInt64LE(BigInt(table.length), 32)
  runs.forEach((run, index) => {
    table.writeBigUInt64LE(BigInt(run.first), HEADER_BYTES + index * RUN_BYTES)
    table.writeBigUInt64LE(BigInt(run.count), HEADER_BYTES + index * RUN_BYTES + 8)
  })
  return table
}

/** What the table of a diff says. */
interface Diff {
  readonly runs: readonly PageRun[]
  readonly dataOffset: number
}

/** Reads and checks the table of a diff; a surprise is an error, never data. */
export async function readDiff(handle: FileHandle, file: string, ramBytes: number): Promise<Diff> {
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
  if (dataOffset !== dataOffsetOf(runCount) || dataOffset > size) throw damaged('the table does not fit')
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

/** The pages of a diff, in pieces of at most `COPY_BYTES`. Runs lie one behind the other in the file: many short ones are read at once. The buffer is reused. */
export async function* diffPages(file: string, ramBytes: number): AsyncGenerator<{ readonly page: number; readonly data: Buffer }> {
  await using handle = await open(file, 'r')
  const { runs, dataOffset } = await readDiff(handle, file, ramBytes)
  const buffer = Buffer.allocUnsafeSlow(COPY_BYTES)
  let [position, left] = [dataOffset, pagesOf(runs) * pageBytes]
  let read = buffer.subarray(0, 0)
  for (const run of runs)
    for (let done = 0; done < run.count;) {
      if (read.length === 0) {
        read = buffer.subarray(0, Math.min(COPY_BYTES, left))
        await readFully(handle, read, position)
        position += read.length
        left -= read.length
      }
      const data = read.subarray(0, Math.min(read.length, (run.count - done) * pageBytes))
      yield { page: run.first + done, data }
      read = read.subarray(data.length)
      done += data.length / pageBytes
    }
}

/** Checks a diff's table without reading its pages. */
export async function checkDiff(file: string, ramBytes: number): Promise<void> {
  await using handle = await open(file, 'r')
  await readDiff(handle, file, ramBytes)
}

/** Writes but for the pages of zeros, which stay holes. Returns the bytes written. */
export async function writeNonZero(target: FileHandle, data: Buffer, position: number): Promise<number> {
  let written = 0
  for (const { from, to } of nonZeroPieces(data)) {
    await writeFully(target, data.subarray(from, to), position + from)
    written += to - from
  }
  return written
}

/** Stretches of a page-aligned buffer that hold something else than zeros. */
export function* nonZeroPieces(data: Buffer): Generator<{ readonly from: number; readonly to: number }> {
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
