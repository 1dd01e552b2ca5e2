// Files of somebody else's, with their zeros made holes of, so that they take no room for what was never written. fallocate(2).

import { open, rm, stat, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import koffi from 'koffi'
import { diskErrors } from '../platform/disk-error.ts'
import { extentsOf } from './extents.ts'
import { writeFully } from './memory-image/private-pages.ts'
import { failedCall } from './unsuitable.ts'

/** Smallest hole that is looked for, in bytes: a page, and a block of the file systems that take a data directory. */
const BLOCK_BYTES = 4096
const COPY_BYTES = 1024 ** 2
/** Longer than what any file system keeps with the file's name, in bytes, and than the pieces in which it tells data. */
const PROBE_BYTES = 16 * 1024 ** 2
const KEEP_SIZE = 0x01
const PUNCH_HOLE = 0x02

type Fallocate = (fd: number, mode: number, offset: number, length: number) => number

// Justification: Node has no fallocate(2).
// Safety: integers in, integer out; the descriptor is open for the whole call. It blocks for as long as the file system takes to note that blocks are free.
let fallocate: Fallocate | undefined
function bindFallocate(): Fallocate {
  fallocate ??= koffi.load(null).func('int fallocate(int fd, int mode, int64_t offset, int64_t length)') as Fallocate
  return fallocate
}

/** Nobody may write to the file meanwhile. Its size stays. Returns the bytes that it takes on disk then. */
export async function punchZeros(file: string, signal?: AbortSignal): Promise<number> {
  return diskErrors(file, async () => {
    await using handle = await open(file, 'r+')
    for await (const { at, data } of contentsOf(handle, file, signal))
      for (const { from, to, isZero } of runsOf(data)) if (isZero) punch(handle.fd, at + from, to - from, file)
    return (await handle.stat()).blocks * 512
  })
}

const known = new Map<number, Promise<boolean>>()

/**
 * Whether the file system of a directory tells a written page from the holes beside it, which `writeOver` needs: where data is told in larger pieces the rest of a piece reads as zeros that somebody
 * wrote. Each file system is asked once, by a file in the directory.
 */
export async function tellsPageHoles(directory: string): Promise<boolean> {
  const { dev } = await stat(directory)
  const probed = known.get(dev) ?? probePageHoles(directory)
  known.set(dev, probed)
  probed.catch(() => known.delete(dev))
  return probed
}

/** `extents` finds what the file system tells. */
export async function probePageHoles(directory: string, extents = extentsOf): Promise<boolean> {
  const file = path.join(directory, `holes-${process.pid}-${process.hrtime.bigint()}.tmp`)
  return diskErrors(file, async () => {
    await using handle = await open(file, 'wx+', 0o600)
    await rm(file)
    await handle.truncate(PROBE_BYTES)
    await writeFully(handle, Buffer.alloc(BLOCK_BYTES, 1), BLOCK_BYTES)
    const [only, ...others] = extents(handle.fd, PROBE_BYTES, file)
    return others.length === 0 && only?.from === BLOCK_BYTES && only.to === 2 * BLOCK_BYTES
  })
}

/**
 * Writes what a sparse file holds over another at the same places, also its zeros: these become holes there. What is a hole in `over` stays as it is in `file`. Both have the same
 * size; nobody may write to either meanwhile. Only where `tellsPageHoles`.
 */
export async function writeOver(file: string, over: string, signal?: AbortSignal): Promise<void> {
  await diskErrors(file, async () => {
    await using target = await open(file, 'r+')
    await using source = await open(over, 'r')
    for await (const { at, data } of contentsOf(source, over, signal))
      for (const { from, to, isZero } of runsOf(data)) {
        if (isZero) punch(target.fd, at + from, to - from, file)
        else await writeFully(target, data.subarray(from, to), at + from)
      }
  })
}

/** The data of a file in pieces; the buffer is reused. */
async function* contentsOf(
  handle: FileHandle,
  file: string,
  signal?: AbortSignal,
): AsyncGenerator<{ readonly at: number; readonly data: Buffer }> {
  const { size } = await handle.stat()
  const buffer = Buffer.allocUnsafeSlow(COPY_BYTES)
  for (const extent of extentsOf(handle.fd, size, file))
    for (let at = extent.from; at < extent.to; at += COPY_BYTES) {
      signal?.throwIfAborted()
      const wanted = buffer.subarray(0, Math.min(COPY_BYTES, extent.to - at))
      yield { at, data: wanted.subarray(0, await readUpTo(handle, wanted, at)) }
    }
}

async function readUpTo(handle: FileHandle, into: Buffer, position: number): Promise<number> {
  let done = 0
  while (done < into.length) {
    const { bytesRead } = await handle.read(into, done, into.length - done, position + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return done
}

/** A file that ends within a block is not zeros there. */
function* runsOf(data: Buffer): Generator<{ readonly from: number; readonly to: number; readonly isZero: boolean }> {
  const zeros = Buffer.alloc(BLOCK_BYTES)
  let run = { from: 0, isZero: false }
  for (let at = 0; at < data.length; at += BLOCK_BYTES) {
    const isZero = at + BLOCK_BYTES <= data.length && data.compare(zeros, 0, BLOCK_BYTES, at, at + BLOCK_BYTES) === 0
    if (at > run.from && isZero !== run.isZero) yield { ...run, to: at }
    if (at === run.from || isZero !== run.isZero) run = { from: at, isZero }
  }
  if (data.length > run.from) yield { ...run, to: data.length }
}

function punch(fd: number, offset: number, length: number, file: string): void {
  if (bindFallocate()(fd, PUNCH_HOLE | KEEP_SIZE, offset, length) !== 0)
    throw failedCall(file, 'fallocate', koffi.errno(), "can't make holes in files")
}
