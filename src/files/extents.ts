// Where a file holds data and where it has holes, by lseek(2): nothing else tells a hole from zeros.

import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'
import { failedCall, unsuitable } from './unsuitable.ts'

/** errno of an offset behind the last data, lseek(2); the same on Linux and macOS. */
const ENXIO = 6

type Lseek = (fd: number, offset: number, whence: number) => number | bigint

/** Values of `whence` by platform: unistd.h of glibc and of macOS have them the other way round. */
const whences: Readonly<Partial<Record<NodeJS.Platform, { readonly data: number; readonly hole: number }>>> = {
  linux: { data: 3, hole: 4 },
  darwin: { data: 4, hole: 3 },
}

// Justification: Node has no lseek(2).
// Safety: integers in, integer out. It moves the offset of a descriptor that nobody reads or writes by: all others name their positions.
// Success is told by the result; errno tells the end of data from a failure.
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

/** The data extents of an open file below `size`, in order. `file` is its path, for errors. Blocks for as long as the disk takes to find them. */
export function* extentsOf(fd: number, size: number, file: string): Generator<Extent> {
  const whence = whences[process.platform]
  if (whence === undefined)
    throw new HypemanError(
      'storage_unsuitable',
      `${file} can't be copied: holes in files are known on Linux and macOS only, and this is ${process.platform}`,
    )
  const seek = bindLseek()
  for (let at = 0; at < size;) {
    const from = Number(seek(fd, at, whence.data))
    if (from < 0) {
      if (koffi.errno() === ENXIO) return
      throw failedCall(file, 'lseek', koffi.errno(), "can't tell holes from data")
    }
    if (from >= size) return
    const to = Number(seek(fd, from, whence.hole))
    if (to < 0) throw failedCall(file, 'lseek', koffi.errno(), "can't tell data from holes")
    if (to <= from) throw unsuitable(file, 'gives no end to its data (lseek)')
    yield { from, to: Math.min(to, size) }
    at = to
  }
}
