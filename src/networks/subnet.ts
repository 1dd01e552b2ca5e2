// The subnet of guests on the host's network: its free addresses, and what the host's routing table says of it. Pure.

import { randomInt } from 'node:crypto'
import { addressOf, numberOf, type Subnet } from '../platform/ipv4.ts'

/** A line of the kernel's table of IPv4 routes (/proc/net/route). Addresses as numbers. */
export interface Route {
  readonly device: string
  readonly first: number
  readonly last: number
  readonly isDefault: boolean
}

/** Whether a guest may have the address: neither the subnet's own, nor the gateway's, nor the one for all. */
export function isGuestAddress(subnet: Subnet, address: string): boolean {
  const number = numberOf(address)
  return number !== undefined && number > subnet.first + 1 && number < subnet.last
}

/** Random tries before the addresses are gone through one by one: while half of them are free, one in a million of searches needs more. */
const RANDOM_TRIES = 20

/** A random address that is not taken, so that one that has just become free is not given to another at once; undefined if all are taken. */
export function freeAddress(subnet: Subnet, isTaken: (address: string) => boolean): string | undefined {
  const count = subnet.last - subnet.first - 2
  for (let tries = 0; tries < RANDOM_TRIES; tries += 1) {
    const address = addressOf(subnet.first + 2 + randomInt(count))
    if (!isTaken(address)) return address
  }
  const start = randomInt(count)
  for (let step = 0; step < count; step += 1) {
    const address = addressOf(subnet.first + 2 + ((start + step) % count))
    if (!isTaken(address)) return address
  }
  return undefined
}

/** The lines of /proc/net/route; what can't be read is passed over. Numbers are hexadecimal, in the order of the host, which is little-endian. */
export function parseRoutes(text: string): readonly Route[] {
  return text.split('\n').flatMap((line) => {
    const [device = '', destination = '', , , , , , mask = ''] = line.trim().split(/\s+/)
    if (!/^[0-9A-F]{8}$/i.test(destination) || !/^[0-9A-F]{8}$/i.test(mask)) return []
    const [first, ones] = [swapped(destination), swapped(mask)]
    return [{ device, first, last: first + (0xffff_ffff - ones), isDefault: ones === 0 }]
  })
}

function swapped(hex: string): number {
  return Buffer.from(hex, 'hex').readUInt32LE()
}

/** Whether a route leads to any of the subnet's addresses and to no more than it must to be somebody's network: a default route leads everywhere. */
export function overlaps(subnet: Pick<Subnet, 'first' | 'last'>, route: Route): boolean {
  return !route.isDefault && route.first <= subnet.last && route.last >= subnet.first
}
