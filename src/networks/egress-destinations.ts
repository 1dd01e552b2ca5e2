// Where the host connects to for guests whose way out is its proxy (egress-proxy.ts), and where not: what is the host's own, other guests, and what only hosts are to ask.
// Addresses are judged, never names: whatever a name is, what counts is what is connected to.

import { readFile } from 'node:fs/promises'
import { Resolver } from 'node:dns/promises'
import { BlockList, isIP, isIPv4 } from 'node:net'
import { anyTap } from './names.ts'
import { readIfThere } from './read-if-there.ts'
import { addressOf, numberOf, type Subnet } from '../platform/ipv4.ts'
import { hostRoutes } from './surroundings.ts'

/** Of any host. */
const never: readonly (readonly [what: string, ...networks: string[]])[] = [
  ['no address of one host', '0.0.0.0/8', '224.0.0.0/4', '240.0.0.0/4', 'ff00::/8'],
  ['a loopback address of the host', '127.0.0.0/8'],
  ['a link-local address, where clouds have their metadata services', '169.254.0.0/16', 'fe80::/10', 'fec0::/10'],
  // Of Azure, Alibaba Cloud, Oracle Cloud, AWS, Google Cloud and Scaleway.
  [
    ...(['a metadata service of a cloud', '168.63.129.16/32', '100.100.100.200/32', '192.0.0.192/32'] as const),
    ...['fd00:ec2::/32', 'fd20:ce::254/128', 'fd00:42::42/128'],
  ],
  // Loopback and no address at all, IPv4 within IPv6, NAT64, Teredo, 6to4: the real destination is inside, or is the host.
  ['another writing of an IPv4 address, or loopback', '::/96', '::ffff:0:0/96', '64:ff9b::/96', '64:ff9b:1::/48', '2001::/32', '2002::/16'],
]

/** One for each family: a list of both would take the one for the other's. */
interface Networks {
  readonly ipv4: BlockList
  readonly ipv6: BlockList
}

function networksOf(texts: readonly string[]): Networks {
  const networks = { ipv4: new BlockList(), ipv6: new BlockList() }
  for (const text of texts) {
    const [address = '', bits = ''] = text.split('/')
    const family = isIPv4(address) ? 'ipv4' : 'ipv6'
    networks[family].addSubnet(address, Number(bits), family)
  }
  return networks
}

function isIn(networks: Networks, address: string): boolean {
  const family = isIPv4(address) ? 'ipv4' : 'ipv6'
  return networks[family].check(address, family)
}

const neverNetworks = never.map(([what, ...texts]) => [what, networksOf(texts)] as const)

/** What is true of this host now. */
export interface HostView {
  /** Networks, with the number of their bits, that are the host itself. */
  readonly own: readonly string[]
  /** The same of guests on devices, those of other servers among them. */
  readonly guests: readonly string[]
}

/** Why no guest is connected to an address; undefined if it may be. */
export function refusalsOf({ own, guests }: HostView): (address: string) => string | undefined {
  const [ownNetworks, guestNetworks] = [networksOf(own), networksOf(guests)]
  return (address) => {
    if (isIP(address) === 0) return 'no address'
    // An interface in it is no part of where it leads: addresses of links are refused anyway.
    const plain = address.split('%')[0] ?? ''
    const [what] = neverNetworks.find(([, networks]) => isIn(networks, plain)) ?? []
    if (what !== undefined) return what
    if (isIn(ownNetworks, plain)) return 'an address of the host itself'
    return isIn(guestNetworks, plain) ? 'an address of guests' : undefined
  }
}

/** How long a view of the host is good for, in milliseconds. */
const VIEW_MS = 1_000

/** The same by what is seen now. All who ask within a second share one look: guests choose how often is asked, and looking takes the time of everybody. */
export function refusalsBy(
  look: () => Promise<HostView>,
  now: () => number = () => performance.now(),
): (address: string) => Promise<string | undefined> {
  let seen: { readonly at: number; readonly refusals: Promise<ReturnType<typeof refusalsOf>> } | undefined
  return async (address) => {
    const current = seen !== undefined && now() - seen.at < VIEW_MS ? seen : { at: now(), refusals: look().then(refusalsOf) }
    seen = current
    try {
      return (await current.refusals)(address)
    } catch (error) {
      if (seen === current) seen = undefined
      throw error
    }
  }
}

/** What the kernel takes for its own, also on devices that are down or without a link, which os.networkInterfaces() leaves out. `subnet` is that of this server's guests. */
export async function hostView(subnet: Pick<Subnet, 'first' | 'prefixBits'>): Promise<HostView> {
  const [trie, ipv6, routes] = await Promise.all([
    readFile('/proc/net/fib_trie', 'latin1'),
    readIfThere('/proc/net/if_inet6'),
    hostRoutes(),
  ])
  const isOfGuest = (device: string): boolean => device.startsWith(anyTap.slice(0, -1))
  return {
    own: [...localNetworks(trie), ...addressesOfIpv6(ipv6).map((address) => `${address}/128`)],
    guests: [
      `${addressOf(subnet.first)}/${subnet.prefixBits}`,
      ...routes.filter(({ device, first, last }) => isOfGuest(device) && first === last).map(({ first }) => `${addressOf(first)}/32`),
    ],
  }
}

/** The lines of /proc/net/fib_trie that say that a network is the host itself. */
export function localNetworks(text: string): readonly string[] {
  let address = ''
  const found = new Set<string>()
  for (const line of text.split('\n')) {
    address = /^\s*\|-- (\S+)$/.exec(line)?.[1] ?? address
    const bits = /^\s*\/(\d{1,2}) host LOCAL\b/.exec(line)?.[1]
    if (bits !== undefined && numberOf(address) !== undefined) found.add(`${address}/${bits}`)
  }
  return [...found]
}

/** Of /proc/net/if_inet6: 32 hexadecimal digits begin each line. */
export function addressesOfIpv6(text: string): readonly string[] {
  return text.split('\n').flatMap((line) => {
    const digits = /^[0-9a-f]{32}(?= )/i.exec(line)?.[0]
    return digits === undefined ? [] : [(digits.match(/.{4}/g) ?? []).join(':')]
  })
}

/** Addresses of a name. Rejects if it has none. */
export type Resolve = (name: string) => Promise<readonly string[]>

/** A try of a resolver, in milliseconds, and how many. */
const [RESOLVE_MS, RESOLVE_TRIES] = [2_000, 2]

/**
 * Asks the host's resolvers, or that one. By a resolver of Node's own: the system's would take threads that the server has its files read by, and know names that are for the host alone
 * (/etc/hosts). IPv4 comes first.
 */
export function resolveBy(server: string | undefined): Resolve {
  return async (name) => {
    // A new one each time knows what resolv.conf says now.
    const resolver = new Resolver({ timeout: RESOLVE_MS, tries: RESOLVE_TRIES })
    if (server !== undefined) resolver.setServers([server])
    const answers = await Promise.allSettled([resolver.resolve4(name), resolver.resolve6(name)])
    const addresses = answers.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
    const failed = answers.find((answer) => answer.status === 'rejected')
    if (addresses.length === 0) throw failed?.reason ?? new Error(`${name} has no address`)
    return addresses
  }
}
