// What to copy of an open file into another so that holes stay holes, and the proof that they did. Who copies the pieces: copy-thread.ts of large
// files, copy.ts of small ones.

import { fstatSync, ftruncateSync, type Stats } from 'node:fs'
import { HypemanError } from '../api/errors.ts'
import { extentsOf, type Extent } from './extents.ts'
import { unsuitable } from './unsuitable.ts'

/** Unit of `blocks` in stat(2), in bytes. */
const BLOCK_UNIT = 512
/** What a filesystem may need to note many extents, in blocks. */
const METADATA_BLOCKS = 16
/** Longest piece, in bytes: some milliseconds, so that an abort is heard soon. After as much it is looked whether holes stay holes. */
export const PIECE_BYTES = 8 * 1024 ** 2

export interface OpenFile {
  readonly path: string
  readonly fd: number
}

/**
 * The pieces of `from` that are to be copied to the same places of the empty file `to`, each before the next is asked for. The source must not
 * change meanwhile: that is an error, as is a target that takes more room on disk than the source and a block an extent.
 */
export function* piecesToCopy(from: OpenFile, to: OpenFile): Generator<Extent> {
  const before = fstatSync(from.fd)
  ftruncateSync(to.fd, before.size)
  // A filesystem without holes has filled the file by now.
  refuseDense(before, to, 0, 0)
  let [extents, copied, looked] = [0, 0, 0]
  for (const extent of extentsOf(from.fd, before.size, from.path)) {
    extents += 1
    for (let at = extent.from; at < extent.to; at += PIECE_BYTES) {
      const piece = { from: at, to: Math.min(at + PIECE_BYTES, extent.to) }
      yield piece
      copied += piece.to - piece.from
      if (copied - looked < PIECE_BYTES) continue
      looked = copied
      refuseDense(before, to, extents, copied)
    }
  }
  const after = fstatSync(from.fd)
  if (after.size !== before.size || after.mtimeMs !== before.mtimeMs) throw changed(from.path)
  refuseDense(before, to, extents, copied)
}

function refuseDense(source: Stats, target: OpenFile, extents: number, copied: number): void {
  const { dev, blocks, blksize } = fstatSync(target.fd)
  // Blocks of two filesystems don't compare: one may compress.
  const needed = dev === source.dev ? source.blocks * BLOCK_UNIT : copied
  if (blocks * BLOCK_UNIT > needed + (extents + METADATA_BLOCKS) * blksize)
    throw unsuitable(target.path, `makes sparse files dense (${blocks * BLOCK_UNIT} bytes on disk instead of ${needed})`)
}

/** The error for a source that ends too early, or is another than it was. */
export function changed(file: string): HypemanError {
  return new HypemanError('conflict', `${file} changed while it was copied; try again when nothing writes to it`)
}
