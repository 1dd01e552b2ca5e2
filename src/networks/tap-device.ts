// Tap devices of the host: made, given an address, removed. By ioctl(2) (tuntap.rst of the kernel's documentation, netdevice(7)): one takes 1.5 ms, and with the tool `ip`
// 5 ms and a process (two cores, November 2026).

import { existsSync } from 'node:fs'
import { open, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import koffi from 'koffi'
import { isMissing } from '../files/tree.ts'

/** linux/if_tun.h */
const TUNSETIFF = 0x4004_54ca
const TUNSETPERSIST = 0x4004_54cb
const TUNSETOWNER = 0x4004_54cc
const IFF_TAP = 0x0002
const IFF_NO_PI = 0x1000
/** Fails if the device is there already, instead of joining it. */
const IFF_TUN_EXCL = 0x8000
/** linux/sockios.h */
const SIOCSIFFLAGS = 0x8914
const SIOCSIFADDR = 0x8916
const SIOCSIFDSTADDR = 0x8918
const SIOCSIFBRDADDR = 0x891a
const SIOCSIFNETMASK = 0x891c
const IFF_UP = 1
const AF_INET = 2
const SOCK_DGRAM_CLOEXEC = 2 | 0o2_000_000
/** struct ifreq: a name of 16 bytes, then a union of 24. */
const NAME_BYTES = 16
const REQUEST_BYTES = 40

// Justification: Node offers none of these calls, and a process for each device would cost each fork more than the device does.
// Safety: integers, and buffers that outlive the synchronous calls, none of which waits for more than the kernel's lock of its devices; success is told by the result alone, errno only words the message.
interface Calls {
  readonly socket: (family: number, kind: number, protocol: number) => number
  readonly close: (fd: number) => number
  readonly request: (fd: number, number: number, argument: Buffer) => number
  readonly set: (fd: number, number: number, value: number) => number
}
let calls: Calls | undefined
function bindCalls(): Calls {
  if (calls !== undefined) return calls
  const c = koffi.load(null)
  calls = {
    socket: c.func('int socket(int family, int kind, int protocol)') as Calls['socket'],
    close: c.func('int close(int fd)') as Calls['close'],
    request: c.func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)') as Calls['request'],
    set: c.func('int ioctl(int fd, unsigned long request, long value)') as Calls['set'],
  }
  return calls
}

/** What a device is and where it leads. */
export interface TapDevice {
  readonly name: string
  /** What `ip link` shows as its alias. */
  readonly alias: string
  /** The host's address on it, and that of the guest, which alone is behind it. Null: the device has none yet. */
  readonly addresses: { readonly host: string; readonly guest: string } | null
  /** Connections of the host's own may be led into it from a loopback address. */
  readonly fromLoopback: boolean
}

/** Makes the device, up and persistent, for VMMs of this user. One of that name that is there is replaced. If it throws, the device is not there. */
export async function makeTap(device: TapDevice): Promise<void> {
  const { name } = device
  await removeTap(name)
  await using undo = new AsyncDisposableStack()
  undo.defer(() => removeTap(name))
  await attachTo(name, IFF_TUN_EXCL, (fd) => {
    check(bindCalls().set(fd, TUNSETOWNER, process.getuid?.() ?? 0), 'TUNSETOWNER', name)
    check(bindCalls().set(fd, TUNSETPERSIST, 1), 'TUNSETPERSIST', name)
  })
  await configure(device)
  undo.move()
}

/** Removes the device; nothing if it is not there. It must not be a VMM's any more. */
export async function removeTap(name: string): Promise<void> {
  if (!isDevice(name)) return
  await attachTo(name, 0, (fd) => check(bindCalls().set(fd, TUNSETPERSIST, 0), 'TUNSETPERSIST', name))
}

export function isDevice(name: string): boolean {
  return existsSync(path.join('/sys/class/net', name))
}

/** Names of all network devices of the host. */
export function listDevices(): Promise<string[]> {
  return readdir('/sys/class/net')
}

/** Opens the device for `act`. Closing it, which removes one that nothing keeps, takes the kernel some milliseconds: not on this thread. */
async function attachTo(name: string, flags: number, act: (fd: number) => void): Promise<void> {
  await using file = await open('/dev/net/tun', 'r+')
  const request = requestFor(name)
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | flags, NAME_BYTES)
  check(bindCalls().request(file.fd, TUNSETIFF, request), 'TUNSETIFF', name)
  act(file.fd)
}

async function configure({ name, alias, addresses, fromLoopback }: TapDevice): Promise<void> {
  // For people, and root's to write: without it the device is as good.
  await writeFile(path.join('/sys/class/net', name, 'ifalias'), alias).catch((error: unknown) => {
    if (!(error instanceof Error && 'code' in error && error.code === 'EACCES')) throw error
  })
  // What the guest sends under another address than its own is dropped.
  await setting('ipv4', name, 'rp_filter', '1')
  if (fromLoopback) await setting('ipv4', name, 'route_localnet', '1')
  // The host would take an address of IPv6 on it, by which the guest could reach what listens on all addresses.
  await setting('ipv6', name, 'disable_ipv6', '1').catch((error: unknown) => {
    if (!isMissing(error)) throw error // a kernel without IPv6
  })
  const { socket, close } = bindCalls()
  const fd = socket(AF_INET, SOCK_DGRAM_CLOEXEC, 0)
  check(Math.min(fd, 0), 'socket', name)
  try {
    if (addresses !== null) {
      // While it is down: with the first of these the address has the mask of its class, which would be a route.
      setAddress(fd, SIOCSIFADDR, name, addresses.host)
      setAddress(fd, SIOCSIFNETMASK, name, '255.255.255.255')
      setAddress(fd, SIOCSIFBRDADDR, name, '0.0.0.0')
      setAddress(fd, SIOCSIFDSTADDR, name, addresses.guest)
    }
    const up = requestFor(name)
    up.writeUInt16LE(IFF_UP, NAME_BYTES)
    check(bindCalls().request(fd, SIOCSIFFLAGS, up), 'SIOCSIFFLAGS', name)
  } finally {
    close(fd)
  }
}

function setAddress(fd: number, number: number, name: string, address: string): void {
  const request = requestFor(name)
  request.writeUInt16LE(AF_INET, NAME_BYTES) // struct sockaddr_in: family, port, address
  for (const [index, byte] of address.split('.').entries()) request.writeUInt8(Number(byte), NAME_BYTES + 4 + index)
  check(bindCalls().request(fd, number, request), 'ioctl', name)
}

function setting(family: 'ipv4' | 'ipv6', device: string, name: string, value: string): Promise<void> {
  return writeFile(path.join('/proc/sys/net', family, 'conf', device, name), value)
}

function requestFor(name: string): Buffer {
  const request = Buffer.alloc(REQUEST_BYTES)
  request.write(name, 0, NAME_BYTES - 1, 'latin1')
  return request
}

function check(result: number, call: string, device: string): void {
  if (result !== 0) throw new Error(`${call} failed for the network device ${device} (errno ${koffi.errno()})`)
}
