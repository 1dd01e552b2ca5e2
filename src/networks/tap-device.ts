// Tap devices of the host: made, given an address, removed. By ioctl(2) (tuntap.rst of the kernel's documentation, netdevice(7)): one takes 1.5 ms, and with the tool `ip`
// 5 ms and a process (two cores, November 2026).

import { existsSync } from 'node:fs'
import { readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import koffi from 'koffi'
import { isMissing } from '../files/tree.ts'
import { IFREQ_NAME_BYTES, interfaceRequest, ioctl, TUNSETOWNER } from '../platform/ioctl.ts'
import { attachTap, checkCall } from '../platform/tap.ts'

/** linux/if_tun.h */
const TUNSETPERSIST = 0x4004_54cb
/** Fails if the device is there already, instead of joining it. */
const IFF_TUN_EXCL = 0x8000
/** Until a VMM that was ended must have let its device go, in milliseconds: what it ran its guest by may end a little later than itself. */
const BUSY_LIMIT_MS = 5_000
/** The same where nobody waits for the device: what can't be removed yet is removed later. */
const REMOVED_LIMIT_MS = 1_000
/** linux/sockios.h */
const SIOCSIFFLAGS = 0x8914
const SIOCSIFADDR = 0x8916
const SIOCSIFDSTADDR = 0x8918
const SIOCSIFBRDADDR = 0x891a
const SIOCSIFNETMASK = 0x891c
const IFF_UP = 1
const AF_INET = 2
const SOCK_DGRAM_CLOEXEC = 2 | 0o2_000_000

// Justification: Node opens no socket without binding it, and a process for each device would cost each fork more than the device does.
// Safety: integers; success is told by the result alone, errno only words the message.
interface Calls {
  readonly socket: (family: number, kind: number, protocol: number) => number
  readonly close: (fd: number) => number
}
let calls: Calls | undefined
function bindCalls(): Calls {
  if (calls !== undefined) return calls
  const c = koffi.load(null)
  calls = {
    socket: c.func('int socket(int family, int kind, int protocol)') as Calls['socket'],
    close: c.func('int close(int fd)') as Calls['close'],
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

/**
 * Makes the device, up and persistent, for VMMs of this user. One of that name that is there is replaced, as soon as a VMM that is about to end has let it go. If it throws, the device is not
 * there.
 */
export async function makeTap(device: TapDevice): Promise<void> {
  const { name } = device
  await removeTap(name, BUSY_LIMIT_MS)
  await using undo = new AsyncDisposableStack()
  undo.defer(() => removeTap(name))
  await attachTap(name, IFF_TUN_EXCL, (fd) => {
    checkCall(ioctl(fd, TUNSETOWNER, process.getuid?.() ?? 0), 'TUNSETOWNER', name)
    checkCall(ioctl(fd, TUNSETPERSIST, 1), 'TUNSETPERSIST', name)
  })
  await configure(device)
  undo.move()
}

/** Removes the device; nothing if it is not there. It must not be a VMM's any more when the time is over. */
export async function removeTap(name: string, busyLimitMs = REMOVED_LIMIT_MS): Promise<void> {
  if (!isDevice(name)) return
  await attachTap(name, 0, (fd) => checkCall(ioctl(fd, TUNSETPERSIST, 0), 'TUNSETPERSIST', name), busyLimitMs)
}

export function isDevice(name: string): boolean {
  return existsSync(path.join('/sys/class/net', name))
}

/** Names of all network devices of the host. */
export function listDevices(): Promise<string[]> {
  return readdir('/sys/class/net')
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
  checkCall(Math.min(fd, 0), 'socket', name)
  try {
    if (addresses !== null) {
      // While it is down: with the first of these the address has the mask of its class, which would be a route.
      setAddress(fd, SIOCSIFADDR, name, addresses.host)
      setAddress(fd, SIOCSIFNETMASK, name, '255.255.255.255')
      setAddress(fd, SIOCSIFBRDADDR, name, '0.0.0.0')
      setAddress(fd, SIOCSIFDSTADDR, name, addresses.guest)
    }
    const up = interfaceRequest(name)
    up.writeUInt16LE(IFF_UP, IFREQ_NAME_BYTES)
    checkCall(ioctl(fd, SIOCSIFFLAGS, up), 'SIOCSIFFLAGS', name)
  } finally {
    close(fd)
  }
}

function setAddress(fd: number, number: number, name: string, address: string): void {
  const request = interfaceRequest(name)
  request.writeUInt16LE(AF_INET, IFREQ_NAME_BYTES) // struct sockaddr_in: family, port, address
  for (const [index, byte] of address.split('.').entries()) request.writeUInt8(Number(byte), IFREQ_NAME_BYTES + 4 + index)
  checkCall(ioctl(fd, number, request), 'ioctl', name)
}

function setting(family: 'ipv4' | 'ipv6', device: string, name: string, value: string): Promise<void> {
  return writeFile(path.join('/proc/sys/net', family, 'conf', device, name), value)
}
