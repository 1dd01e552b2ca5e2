// The thread that copies: in the kernel where that can be done (copy_file_range), through a buffer between two filesystems. Its calls block for
// as long as the disk does; several copies take turns. Started by copy-job.ts, which has the other end.

import { readSync, writeSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { parentPort } from 'node:worker_threads'
import koffi from 'koffi'
import { isHypemanError } from '../api/errors.ts'
import { changed, PIECE_BYTES, piecesToCopy, type OpenFile } from './copy-extents.ts'
import type { CopyEnd, CopyJob } from './copy-job.ts'
import type { Extent } from './extents.ts'

/** Pieces of one turn, however small they are. */
const TURN_PIECES = 256
const BUFFER_BYTES = 1024 ** 2

parentPort?.on('message', (job: CopyJob) => void copy(job))

async function copy({ from, to, stop, port }: CopyJob): Promise<void> {
  const end = (value: CopyEnd): void => {
    port.postMessage(value)
    port.close()
  }
  try {
    let [bytes, pieces] = [0, 0]
    for (const piece of piecesToCopy(from, to)) {
      copyPiece(from, to, piece)
      bytes += piece.to - piece.from
      pieces += 1
      if (bytes < PIECE_BYTES && pieces < TURN_PIECES) continue
      port.postMessage(bytes)
      ;[bytes, pieces] = [0, 0]
      await nextTurn()
      if (Atomics.load(stop, 0) !== 0) return end({ kind: 'stopped' })
    }
    port.postMessage(bytes)
    end({ kind: 'done' })
  } catch (error) {
    // Of an error's own fields a message between threads keeps none.
    if (isHypemanError(error)) end({ kind: 'refused', message: error.message, code: error.code })
    else if (error instanceof Error) end({ kind: 'failed', message: error.message, code: 'code' in error ? String(error.code) : undefined })
    else end({ kind: 'failed', message: String(error), code: undefined })
  }
}

function copyPiece(from: OpenFile, to: OpenFile, piece: Extent): void {
  for (let at = piece.from; at < piece.to;) {
    const copied = copyInKernel(from.fd, to.fd, at, piece.to - at)
    // Whatever kept the kernel from it, read and write do it or tell the reason in Node's own words.
    if (copied <= 0) return copyByBuffer(from, to, { from: at, to: piece.to })
    at += copied
  }
}

let buffer: Buffer | undefined
function copyByBuffer(from: OpenFile, to: OpenFile, piece: Extent): void {
  buffer ??= Buffer.allocUnsafeSlow(BUFFER_BYTES)
  for (let at = piece.from; at < piece.to;) {
    const read = readSync(from.fd, buffer, 0, Math.min(buffer.length, piece.to - at), at)
    if (read === 0) throw changed(from.path)
    for (let written = 0; written < read;) written += writeSync(to.fd, buffer, written, read - written, at + written)
    at += read
  }
}

type CopyFileRange = (
  fromFd: number,
  fromOffset: readonly [number],
  toFd: number,
  toOffset: readonly [number],
  bytes: number,
  flags: number,
) => number

// Justification: Node has no copy_file_range(2); through a buffer of Node's each byte is copied twice more.
// Safety: koffi copies the offsets into memory of its own for the call; whoever opened the descriptors waits for the end of the copy. No errno is
// used: what the kernel does not copy, for whatever reason, goes by read and write.
let copyFileRange: CopyFileRange | undefined
function copyInKernel(fromFd: number, toFd: number, at: number, bytes: number): number {
  if (process.platform !== 'linux') return 0
  copyFileRange ??= koffi.load(null).func('int64_t copy_file_range(int, int64_t *, int, int64_t *, size_t, unsigned int)') as CopyFileRange
  return copyFileRange(fromFd, [at], toFd, [at], bytes, 0)
}
