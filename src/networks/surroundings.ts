// What a guest on a tap device is told of the world outside, and what of the host decides whether it can have one: routes, resolvers, packet size.

import { readFile } from 'node:fs/promises'
import { isIPv4 } from 'node:net'
import path from 'node:path'
import { readIfThere } from './read-if-there.ts'
import { parseRoutes, type Route } from './subnet.ts'

/** Asked where the host names no resolver that its guests could reach. */
const PUBLIC_RESOLVER = '1.1.1.1'
/** The kernel's resolver list has at most three (resolv.conf(5)). */
const MOST_RESOLVERS = 3
/** Of Ethernet: what guests have where the host's own link takes more. */
const USUAL_MTU = 1500

export async function hostRoutes(): Promise<readonly Route[]> {
  return parseRoutes(await readFile('/proc/net/route', 'latin1'))
}

/** The host's resolvers; those behind systemd-resolved where that is the one, since a loopback address is the guest's own there. */
export async function resolversForGuests(): Promise<readonly string[]> {
  for (const file of ['/etc/resolv.conf', '/run/systemd/resolve/resolv.conf']) {
    const found = resolversIn(await readIfThere(file))
    if (found.length > 0) return found
  }
  return [PUBLIC_RESOLVER]
}

/** Addresses of a resolv.conf(5) that a guest can reach. */
export function resolversIn(text: string): readonly string[] {
  return text
    .split('\n')
    .flatMap((line) => /^\s*nameserver\s+(\S+)/.exec(line)?.[1] ?? [])
    .filter((address) => isIPv4(address) && !address.startsWith('127.') && address !== '0.0.0.0')
    .slice(0, MOST_RESOLVERS)
}

/** The largest packet that goes out as it is, by the link of the default route. */
export async function guestMtu(): Promise<number> {
  const device = (await hostRoutes()).find(({ isDefault }) => isDefault)?.device
  if (device === undefined) return USUAL_MTU
  const mtu = Number.parseInt(await readIfThere(path.join('/sys/class/net', device, 'mtu')), 10)
  return Number.isInteger(mtu) ? Math.min(mtu, USUAL_MTU) : USUAL_MTU
}

/** Whether the host lets a device take packets that it would answer by another one, whatever the device's own setting is (ip-sysctl of the kernel's documentation, rp_filter). */
export async function isLenient(): Promise<boolean> {
  return (await readIfThere('/proc/sys/net/ipv4/conf/all/rp_filter')).trim() === '2'
}
