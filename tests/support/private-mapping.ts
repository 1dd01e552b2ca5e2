// A file mapped privately by this very process, as a VMM maps guest memory: writes stay in the process and never reach the file.

import { closeSync, openSync } from 'node:fs'
import koffi from 'koffi'

const PROT_READ_WRITE = 3
const MAP_PRIVATE = 2

// Justification: Node can't map files; a private mapping is what the code under test looks at.
// Safety: the view is not used after `unmap`, and its length is the mapping's.
const libc = koffi.load(null)
const mmap = libc.func('void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)')
const munmap = libc.func('int munmap(void *address, size_t length)')

export interface PrivateMapping extends Disposable {
  /** The process's own view; pages written to become its own. */
  readonly bytes: Buffer
}

export function mapPrivately(file: string, bytes: number): PrivateMapping {
  const fd = openSync(file, 'r+')
  const address: unknown = mmap(null, bytes, PROT_READ_WRITE, MAP_PRIVATE, fd, 0)
  closeSync(fd)
  if (address === null) throw new Error(`${file} can't be mapped`)
  return {
    bytes: Buffer.from(koffi.view(address, bytes)),
    [Symbol.dispose]: () => void munmap(address, bytes),
  }
}
