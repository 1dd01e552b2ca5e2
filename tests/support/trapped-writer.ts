// A process whose memory catches writes, as a VMM's does while it is captured: node trapped-writer.ts PAGES. Each page is full of ones; it prints where they are. For each line of
// standard input, a byte's value, it writes all pages full of it, the last one first, and prints the value. userfaultfd(2), ioctl_userfaultfd(2), mmap(2).

import { constants } from 'node:fs'
import { createInterface } from 'node:readline'
import koffi from 'koffi'
import { ioctl } from '../../src/platform/ioctl.ts'

const PAGE_BYTES = 4096
const USERFAULTFD = process.arch === 'arm64' ? 282 : 323
const UFFDIO_API = 0xc018_aa3f
const UFFDIO_REGISTER = 0xc020_aa00
const [UFFD_API, WRITE_PROTECT, REGISTER_WRITE_PROTECT] = [0xaan, 1n, 2n]
const [READ_WRITE, PRIVATE_ANONYMOUS] = [3, 0x22]

const bytes = Number(process.argv[2]) * PAGE_BYTES
const c = koffi.load(null)
const syscall = c.func('long syscall(long number, long flags)') as (number: number, flags: number) => number
const memset = c.func('void *memset(uintptr_t at, int byte, size_t bytes)') as (at: number, byte: number, bytes: number) => unknown
const mmap = c.func('uintptr_t mmap(void *at, size_t bytes, int rights, int flags, int fd, long offset)') as (...args: unknown[]) => number

const at = Number(mmap(null, bytes, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0))
memset(at, 1, bytes)
const fd = Number(syscall(USERFAULTFD, constants.O_NONBLOCK))
const ask = (number: number, ...words: readonly bigint[]): void => {
  const request = Buffer.alloc(words.length * 8)
  for (const [index, word] of words.entries()) request.writeBigUInt64LE(word, index * 8)
  if (ioctl(fd, number, request) !== 0) throw new Error(`userfaultfd does not work (errno ${koffi.errno()})`)
}
ask(UFFDIO_API, UFFD_API, WRITE_PROTECT, 0n)
ask(UFFDIO_REGISTER, BigInt(at), BigInt(bytes), REGISTER_WRITE_PROTECT, 0n)
console.log(at)
createInterface({ input: process.stdin }).on('line', (value) => {
  for (let page = bytes - PAGE_BYTES; page >= 0; page -= PAGE_BYTES) memset(at + page, Number(value), PAGE_BYTES)
  console.log(value)
})
