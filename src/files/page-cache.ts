// Lets the kernel forget what it holds of a file, so that the next read comes from the disk: only then can a read find what rotted there.

import koffi from 'koffi'

const POSIX_FADV_DONTNEED = 4

type Fadvise = (fd: number, offset: number, length: number, advice: number) => number

// Justification: Node has no posix_fadvise(2), and without it a check of a file that was used lately only sees the copy in memory.
// Safety: integers in, integer out. It is advice: contents never change, pages that are dirty or mapped stay, and a filesystem that ignores it does no harm.
let fadvise: Fadvise | undefined
function bindFadvise(): Fadvise {
  fadvise ??= koffi.load(null).func('int posix_fadvise(int fd, int64_t offset, int64_t length, int advice)') as Fadvise
  return fadvise
}

/** Drops the clean, unmapped pages of an open file. */
export function dropCached(fd: number): void {
  bindFadvise()(fd, 0, 0, POSIX_FADV_DONTNEED)
}
