// Memory of this very process as a VMM has a guest's: a file mapped privately, whose writes stay in the process and never reach the file, or no file at all.

import { closeSync, openSync } from 'node:fs'
import koffi from 'koffi'

const PROT_READ_WRITE = 3
const MAP_PRIVATE = 2
const MAP_ANONYMOUS = 0x20
/** madvise(2): what a balloon does with pages, what the kernel does when memory is short, and to ask for huge pages. */
const advices = { drop: 4, hugePages: 14, pageOut: 21 } as const

// Justification: Node can't map files; a private mapping is what the code under test looks at.
// Safety: the view is not used after `unmap`, and its length is the mapping's.
const libc = koffi.load(null)
const mmap = libc.func('void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)')
const madvise = libc.func('int madvise(void *address, size_t length, int advice)')
const munmap = libc.func('int munmap(void *address, size_t length)')

export interface PrivateMapping extends Disposable {
  /** The process's own view; pages written to become its own. */
  readonly bytes: Buffer
  /** Of a stretch, in bytes from its start. */
  advise(advice: keyof typeof advices, from?: number, to?: number): void
}

export function mapPrivately(file: string, bytes: number): PrivateMapping {
  const fd = openSync(file, 'r+')
  const address: unknown = mmap(null, bytes, PROT_READ_WRITE, MAP_PRIVATE, fd, 0)
  closeSync(fd)
  return mappingAt(address, bytes)
}

export function mapAnonymously(bytes: number): PrivateMapping {
  return mappingAt(mmap(null, bytes, PROT_READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), bytes)
}

function mappingAt(address: unknown, bytes: number): PrivateMapping {
  if (address === null || koffi.address(address) === 2n ** 64n - 1n) throw new Error('memory can not be mapped')
  return {
    bytes: Buffer.from(koffi.view(address, bytes)),
    advise(advice, from = 0, to = bytes) {
      const at = koffi.address(address) + BigInt(from)
      if (madvise(at, to - from, advices[advice]) !== 0) throw new Error(`the kernel does not take the advice ${advice}`)
    },
    [Symbol.dispose]: () => void munmap(address, bytes),
  }
}
