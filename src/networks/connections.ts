// TCP connections of this host as its kernel lists them (/proc/net/tcp, tcp6): which lead into published ports, and which did so a moment ago. The VMMs of guests in
// user mode take such connections themselves, as the server does, so both are in the same list.

import { readFile } from 'node:fs/promises'
import { readIfThere } from './read-if-there.ts'

export interface Endpoint {
  /** IPv4 or IPv6; one of IPv4 that came to a socket of IPv6 is of IPv4. */
  readonly address: string
  readonly port: number
}

export interface HostConnection {
  readonly local: Endpoint
  readonly remote: Endpoint
  /** How long ago it ended, in milliseconds; null while it is open. Each end remembers for a minute that it has closed a connection first. */
  readonly endedMs: number | null
}

/** States of the kernel's (include/net/tcp_states.h). */
const ESTABLISHED = 0x01
const SYN_RECEIVED = 0x03
const FIN_WAIT_1 = 0x04
const FIN_WAIT_2 = 0x05
const TIME_WAIT = 0x06
const CLOSE_WAIT = 0x08
const LAST_ACK = 0x09
const CLOSING = 0x0b
const counted: ReadonlySet<number> = new Set([
  ...[ESTABLISHED, SYN_RECEIVED, FIN_WAIT_1, FIN_WAIT_2, TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING],
])
const openToAll: ReadonlySet<number> = new Set([ESTABLISHED, SYN_RECEIVED])

/** Kind of a timer: how long a closed connection is still remembered. */
const REMEMBERED = '03'
/** For so long, in milliseconds (TCP_TIMEWAIT_LEN). */
const REMEMBERED_MS = 60_000
/** What a tick of such timers is for programs, in milliseconds (USER_HZ). */
const TICK_MS = 10

/** Connections with one of the ports at either end. */
export async function hostConnections(ports: ReadonlySet<number>): Promise<readonly HostConnection[]> {
  if (ports.size === 0) return []
  const lists = await Promise.all([readFile('/proc/net/tcp', 'latin1'), readIfThere('/proc/net/tcp6')])
  return lists.flatMap((text) => parseConnections(text, ports))
}

/** What is no line of a connection is passed over: the heading, and what later kernels may add. */
export function parseConnections(text: string, ports: ReadonlySet<number>): HostConnection[] {
  return text.split('\n').flatMap((line) => {
    const match =
      /^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{2}) \S+ ([0-9A-F]{2}):([0-9A-F]+) +\S+ +\d+ +\d+ +(\d+)/i.exec(
        line,
      )
    if (match === null) return []
    const [, localAddress = '', localPort = '', remoteAddress = '', remotePort = '', state = '', timer = '', left = '', inode = ''] = match
    const [here, there] = [Number.parseInt(localPort, 16), Number.parseInt(remotePort, 16)]
    if (!ports.has(here) && !ports.has(there)) return []
    const endedMs = endOf(Number.parseInt(state, 16), timer, left, inode)
    if (endedMs === undefined) return []
    return [
      { local: { address: addressOf(localAddress), port: here }, remote: { address: addressOf(remoteAddress), port: there }, endedMs },
    ]
  })
}

/** Undefined for what is no connection, such as a listening socket. */
function endOf(state: number, timer: string, left: string, inode: string): number | null | undefined {
  if (!counted.has(state)) return undefined
  if (timer === REMEMBERED && (state === TIME_WAIT || state === FIN_WAIT_2))
    return Math.max(0, REMEMBERED_MS - Number.parseInt(left, 16) * TICK_MS)
  // One that no process holds any more is on its way out; one that is just being made is held by none yet.
  return openToAll.has(state) || inode !== '0' ? null : 0
}

/** Words of four bytes, each in the order of the host, which is little-endian on all that guests run on here. */
function addressOf(hex: string): string {
  const bytes = Buffer.from(hex, 'hex').swap32()
  if (bytes.length === 4) return bytes.join('.')
  const groups = Array.from({ length: bytes.length / 2 }, (_, index) => bytes.readUInt16BE(index * 2))
  const isMapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff
  return isMapped ? bytes.subarray(12).join('.') : plainAddress(groups)
}

/** As URLs write it, which is the one short form of each address. */
function plainAddress(groups: readonly number[]): string {
  return new URL(`http://[${groups.map((group) => group.toString(16)).join(':')}]`).hostname.slice(1, -1)
}

/** A published port as connections are told by. */
interface Published {
  readonly hostPort: number
  readonly hostAddress: string
}

/**
 * Who has connected to a published port by a connection: its other end; undefined if it does not lead there. Of one from this very host that is over, either end may be
 * what is left.
 */
export function sourceOf({ local, remote, endedMs }: HostConnection, { hostPort, hostAddress }: Published): Endpoint | undefined {
  if (local.port === hostPort && listensOn(hostAddress, local.address)) return remote
  const isOfThisHost = endedMs !== null && (remote.address === local.address || /^(127\.|::1$)/.test(remote.address))
  return isOfThisHost && remote.port === hostPort && listensOn(hostAddress, remote.address) ? local : undefined
}

function listensOn(hostAddress: string, address: string): boolean {
  return hostAddress === address || hostAddress === '0.0.0.0' || hostAddress === '::' || hostAddress === ''
}
