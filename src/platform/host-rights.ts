// What the kernel lets this user do, by doing it: userfaultfd, tap devices, reading a child's memory. Nothing stays afterwards.

import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync, readSync } from 'node:fs'
import { arch, platform } from 'node:os'
import koffi from 'koffi'
import { ioctl, TUNSETIFF, tapRequest } from './ioctl.ts'
import { found, lacking, reasonOf, type Probe, type Wording } from './probe.ts'

const wordings = {
  userfaultfd: {
    name: 'userfaultfd',
    essential: false,
    good: 'the first snapshot of a machine pauses it for milliseconds',
    bad: 'the first snapshot of a machine pauses it while its memory is copied',
    fix: 'run as root, or sysctl vm.unprivileged_userfaultfd=1',
  },
  tap: {
    name: 'tap devices',
    essential: false,
    good: 'machines can be on a network of the host, which can limit their bandwidth (docs/networks.md)',
    bad: 'machines have user-mode networking only: outbound connections and published ports, no limits of bandwidth',
    fix: 'run as root or with CAP_NET_ADMIN, and make /dev/net/tun accessible',
  },
  memory: {
    name: 'memory of children',
    essential: false,
    good: 'later snapshots copy only the pages that changed',
    bad: 'every snapshot copies the whole memory of a machine',
    fix: 'run as root or with CAP_SYS_PTRACE',
  },
} as const satisfies Record<string, Wording>

export async function probeRights(): Promise<Probe[]> {
  return [probeUserfaultfd(), probeTap(), await probeChildMemory()]
}

// Justification: Node has no call that opens a userfaultfd, and only making it tells whether it is allowed here.
// Safety: two integers; success is told by the result alone, errno only words the value.
type Syscall = (number: number, flags: number) => number | bigint
let syscall: Syscall | undefined
function openUserfaultfd(number: number): number {
  syscall ??= koffi.load(null).func('long syscall(long number, int flags)') as Syscall
  return Number(syscall(number, constants.O_NONBLOCK))
}

/** userfaultfd(2) on amd64 and arm64. */
const userfaultfdNumbers: Readonly<Record<string, number>> = { x64: 323, arm64: 282 }
/** _IOWR(0xAA, 0x3F, struct uffdio_api), ioctl_userfaultfd(2). */
const UFFDIO_API = 0xc018aa3f
const UFFD_API = 0xaan
const writeProtectFeature = 1n

/** Why a guest's writes can't be caught while its memory is saved (userfaultfd with write protection); undefined if they can. */
export function whyNotCatchWrites(): string | undefined {
  const probe = probeUserfaultfd()
  return probe.ok ? undefined : `${probe.name}: ${probe.value}`
}

function probeUserfaultfd(): Probe {
  const number = userfaultfdNumbers[arch()]
  if (platform() !== 'linux' || number === undefined) return lacking(wordings.userfaultfd, `not on ${platform()} ${arch()}`)
  const fd = openUserfaultfd(number)
  if (fd < 0) return lacking(wordings.userfaultfd, `not allowed (errno ${koffi.errno()})`)
  try {
    const api = Buffer.alloc(24)
    api.writeBigUInt64LE(UFFD_API, 0)
    if (ioctl(fd, UFFDIO_API, api) !== 0) return lacking(wordings.userfaultfd, `the kernel speaks another version (errno ${koffi.errno()})`)
    const writeProtects = (api.readBigUInt64LE(8) & writeProtectFeature) !== 0n
    return writeProtects ? found(wordings.userfaultfd, 'with write protection') : lacking(wordings.userfaultfd, 'without write protection')
  } finally {
    closeSync(fd)
  }
}

/** Why no tap device can be made here; undefined if one can. */
export function whyNotTap(): string | undefined {
  const probe = probeTap()
  return probe.ok ? undefined : `${probe.value}: ${wordings.tap.fix}`
}

// The device is not persistent: it vanishes when the descriptor is closed.
function probeTap(): Probe {
  let fd: number
  try {
    fd = openSync('/dev/net/tun', constants.O_RDWR | constants.O_NONBLOCK)
  } catch (error) {
    return lacking(wordings.tap, `/dev/net/tun can't be opened (${reasonOf(error)})`)
  }
  try {
    return ioctl(fd, TUNSETIFF, tapRequest('hmprobe%d')) === 0
      ? found(wordings.tap, 'can be made')
      : lacking(wordings.tap, `/dev/net/tun opens, but no device can be made (errno ${koffi.errno()})`)
  } finally {
    closeSync(fd)
  }
}

async function probeChildMemory(): Promise<Probe> {
  if (platform() !== 'linux') return lacking(wordings.memory, `not on ${platform()}`)
  const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] })
  try {
    await spawned(child)
    const address = firstMapping(child)
    readAt(`/proc/${child.pid}/mem`, address, 4096)
    readAt(`/proc/${child.pid}/pagemap`, (address / 4096n) * 8n, 8)
    return found(wordings.memory, `can be read${restriction()}`)
  } catch (error) {
    return lacking(wordings.memory, `can't be read (${reasonOf(error)})`)
  } finally {
    await ended(child)
  }
}

function spawned(child: ChildProcess): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  child.once('spawn', () => resolve())
  child.once('error', reject)
  return promise
}

function firstMapping(child: ChildProcess): bigint {
  const start = /^([0-9a-f]+)-/.exec(readFileSync(`/proc/${child.pid}/maps`, 'latin1'))?.[1]
  if (start === undefined) throw new Error(`/proc/${child.pid}/maps shows nothing`)
  return BigInt(`0x${start}`)
}

function readAt(file: string, position: bigint, bytes: number): void {
  const fd = openSync(file, 'r')
  try {
    const got = readSync(fd, Buffer.alloc(bytes), 0, bytes, position)
    if (got !== bytes) throw new Error(`${file} gave ${got} of ${bytes} bytes`)
  } finally {
    closeSync(fd)
  }
}

// Yama's scope 1 allows descendants only, and a machine is none of a server that was started after it (ptrace(2)).
function restriction(): string {
  let scope: string
  try {
    scope = readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'utf8').trim()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return ''
    throw error
  }
  return scope === '0' || process.getuid?.() === 0 ? '' : ', but not of machines that an earlier server started (kernel.yama.ptrace_scope)'
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const { promise, resolve } = Promise.withResolvers<void>()
  child.once('exit', () => resolve())
  child.kill('SIGKILL')
  await promise
}
