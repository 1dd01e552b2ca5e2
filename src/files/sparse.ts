// Copies a sparse file extent by extent: holes stay holes, nothing is ever made dense. Reflink is tried by the caller first.

import { open } from 'node:fs/promises'
import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'

const SEEK_DATA = 3
const SEEK_HOLE = 4
/** errno of an offset behind the last data; lseek(2). */
const ENXIO = 6
/** Unit of `blocks` in stat(2), in bytes. */
const BLOCK_UNIT = 512
/** What a filesystem may need to note many extents, in blocks. */
const METADATA_BLOCKS = 16
/** Bytes copied at once. */
const CHUNK = 1024 * 1024

type Lseek = (fd: number, offset: number, whence: number) => number

// Justification: Node has no lseek(2), and only SEEK_DATA and SEEK_HOLE tell holes from zeros.
// Safety: integers in, integer out; every file is opened here and closed here. Success is told by the result; errno only words the end of data.
let lseek: Lseek | undefined
function bindLseek(): Lseek {
  lseek ??= koffi.load(null).func('int64_t lseek(int fd, int64_t offset, int whence)') as Lseek
  return lseek
}

/** A stretch of data, in bytes. */
export interface Extent {
  readonly from: number
  readonly to: number
}

/** The data extents of an open file, in order. */
export function* extentsOf(fd: number, size: number, file: string): Generator<Extent> {
  const seek = bindLseek()
  for (let at = 0; at < size;) {
    const from = Number(seek(fd, at, SEEK_DATA))
    if (from < 0) {
      if (koffi.errno() === ENXIO) return
      throw new HypemanError(
        'storage_unsuitable',
        `the filesystem of ${file} can't tell holes from data (lseek, errno ${koffi.errno()}); put the data directory on ext4, XFS or btrfs`,
      )
    }
    const to = Number(seek(fd, from, SEEK_HOLE))
    if (to <= from)
      throw new HypemanError(
        'storage_unsuitable',
        `the filesystem of ${file} gives no end to its data (lseek); put the data directory on ext4, XFS or btrfs`,
      )
    yield { from, to: Math.min(to, size) }
    at = to
  }
}

/** Copies `source` to the new file `target`, data extents only. A filesystem that would make it grow by more than a block an extent is an error. */
export async function copySparse(source: string, target: string): Promise<void> {
  await using from = await open(source, 'r')
  await using to = await open(target, 'wx', 0o600)
  const { size } = await from.stat()
  await to.truncate(size)
  const buffer = Buffer.allocUnsafeSlow(CHUNK)
  let [extents, copied] = [0, 0]
  for (const extent of extentsOf(from.fd, size, source)) {
    extents += 1
    copied += extent.to - extent.from
    for (let at = extent.from; at < extent.to;) {
      const { bytesRead } = await from.read(buffer, 0, Math.min(CHUNK, extent.to - at), at)
      if (bytesRead === 0) throw new Error(`${source} shrank while it was copied`)
      for (let done = 0; done < bytesRead;) done += (await to.write(buffer, done, bytesRead - done, at + done)).bytesWritten
      at += bytesRead
    }
  }
  const [before, after] = [await from.stat(), await to.stat()]
  // Blocks of two filesystems don't compare: one may compress.
  const needed = before.dev === after.dev ? before.blocks * BLOCK_UNIT : copied
  if (after.blocks * BLOCK_UNIT > needed + (extents + METADATA_BLOCKS) * after.blksize)
    throw new HypemanError(
      'storage_unsuitable',
      `the filesystem of ${target} makes sparse files dense (${after.blocks * BLOCK_UNIT} bytes instead of ${needed}); put the data directory on ext4, XFS or btrfs`,
    )
}
