// The userfaultfd of another process, taken by a descriptor of one's own: with it pages of that process are protected from being written, and what waits to write goes on.
// Facts: pidfd_open(2), pidfd_getfd(2) (Linux ≥ 5.6), userfaultfd(2), ioctl_userfaultfd(2), poll(2). Descriptor and address space are two things: any process that has the one changes the other.

import { closeSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs'
import koffi from 'koffi'
import { HypemanError } from '../api/errors.ts'
import { ioctl } from './ioctl.ts'

/** The same on all architectures: calls have had one number everywhere since 424. */
const PIDFD_OPEN = 434
const PIDFD_GETFD = 438
/** _IOWR(0xAA, 0x06, struct uffdio_writeprotect): start, length and mode, each a u64. */
const UFFDIO_WRITEPROTECT = 0xc018_aa06
const PROTECT = 1n
/** struct uffd_msg: the kind of event in its first byte, the address in the third u64. */
const MESSAGE_BYTES = 32
const MESSAGES_AT_ONCE = 64
const ADDRESS_AT = 16
const PAGE_FAULT = 0x12
const pageMask = ~4095n

// Justification: Node has none of these calls.
// Safety: integers alone; each returns at once, and the descriptors that two of them give are closed here.
type Syscall = (number: number, one: number, two: number, three: number) => number | bigint
let syscall: Syscall | undefined
function call(...args: Parameters<Syscall>): number {
  syscall ??= koffi.load(null).func('long syscall(long number, long one, long two, long three)') as Syscall
  return Number(syscall(...args))
}

/** A part of a process's memory, in whole pages. */
export interface MemoryRange {
  readonly address: number
  readonly bytes: number
}

export interface WriteTraps extends Disposable {
  readonly fd: number
  /** From here on whoever writes to a page waits until it is released. */
  protect(range: MemoryRange): void
  /** What waits to write there goes on, and nothing waits any more. */
  release(range: MemoryRange): void
  /** The same for all that the process has registered. */
  releaseAll(): void
  /** The pages that somebody waits to write to, by their addresses, of those that were not told yet. Only when `fd` is readable: else it fails with EAGAIN. */
  waiting(): number[]
}

/** Why the descriptors of a process can't be taken; undefined if they can. */
export function whyNotTake(pid: number): string | undefined {
  try {
    closeSync(takeDescriptor(pid, 0))
    return undefined
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/** Undefined if the process has none; of several, the last one that it opened. */
export function takeTraps(pid: number): WriteTraps | undefined {
  const directory = `/proc/${pid}/fd`
  const isOne = (number: string): boolean => readlinkSync(`${directory}/${number}`).includes('[userfaultfd]')
  const number = readdirSync(directory).findLast((entry) => quietly(() => isOne(entry)) === true)
  if (number === undefined) return undefined
  const fd = takeDescriptor(pid, Number(number))
  const messages = Buffer.alloc(MESSAGES_AT_ONCE * MESSAGE_BYTES)
  const set = ({ address, bytes }: MemoryRange, mode: bigint): boolean => {
    const request = Buffer.alloc(24)
    request.writeBigUInt64LE(BigInt(address), 0)
    request.writeBigUInt64LE(BigInt(bytes), 8)
    request.writeBigUInt64LE(mode, 16)
    return ioctl(fd, UFFDIO_WRITEPROTECT, request) === 0
  }
  const demand = (range: MemoryRange, mode: bigint): void => {
    if (!set(range, mode))
      throw new HypemanError('host_unavailable', `memory of the process ${pid} can't be protected (errno ${koffi.errno()})`)
  }
  return {
    fd,
    protect: (range) => demand(range, PROTECT),
    release: (range) => demand(range, 0n),
    // Ranges that are not registered are refused, which changes nothing.
    releaseAll: () => mappedIn(pid).forEach((range) => set(range, 0n)),
    waiting() {
      const length = readSync(fd, messages)
      return Array.from({ length: length / MESSAGE_BYTES }, (_, index) => index * MESSAGE_BYTES)
        .filter((at) => messages.readUInt8(at) === PAGE_FAULT)
        .map((at) => Number(messages.readBigUInt64LE(at + ADDRESS_AT) & pageMask))
    },
    [Symbol.dispose]: () => closeSync(fd),
  }
}

function takeDescriptor(pid: number, number: number): number {
  const process = call(PIDFD_OPEN, pid, 0, 0)
  if (process < 0) throw new HypemanError('host_unavailable', `the process ${pid} can't be opened (errno ${koffi.errno()})`)
  try {
    const fd = call(PIDFD_GETFD, process, number, 0)
    if (fd >= 0) return fd
    throw new HypemanError(
      'host_unavailable',
      `descriptors of the process ${pid} can't be taken (errno ${koffi.errno()}): run the server as root, or allow it to trace its own children (kernel.yama.ptrace_scope)`,
    )
  } finally {
    closeSync(process)
  }
}

function mappedIn(pid: number): MemoryRange[] {
  return readFileSync(`/proc/${pid}/maps`, 'latin1')
    .split('\n')
    .flatMap((line) => {
      const match = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line)
      if (match === null) return []
      const [start, end] = [Number.parseInt(match[1] ?? '', 16), Number.parseInt(match[2] ?? '', 16)]
      return Number.isSafeInteger(start) && Number.isSafeInteger(end) ? [{ address: start, bytes: end - start }] : []
    })
}

/** Undefined if it fails: a descriptor that was closed meanwhile is none that was looked for. */
function quietly<T>(act: () => T): T | undefined {
  try {
    return act()
  } catch {
    return undefined
  }
}
