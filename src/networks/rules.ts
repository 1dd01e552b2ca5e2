// The firewall rules of guests on tap devices, as iptables-restore reads them. Pure. All that may change is in chains of our own, which are replaced whole: the rules that are in
// force never depend on those that were.

import { isIPv4 } from 'node:net'
import type { EgressMode } from '../api/schemas/egress.ts'
import { anyTap, type NetworkNames } from './names.ts'
import type { PublishedPort } from './ports.ts'

/** What leads into a guest. */
export interface Forwarded {
  readonly address: string
  readonly ports: readonly PublishedPort[]
}

/** A guest whose way out is the host's proxy. */
export interface Mediated {
  /** Name of its device, which tells for sure who sends: source addresses are only as good as the host's settings. */
  readonly device: string
  /** Null: it has none, and may not even ask the proxy. */
  readonly address: string | null
  readonly mode: EgressMode
}

/** What a guest sends as, on whatever network of its own it says it is. */
export interface Source {
  readonly device: string
  readonly address: string
}

/** What is to be in force, beside what always is. */
export interface RuleSet {
  /** In CIDR notation, and the host's address in it. */
  readonly subnet: string
  readonly gateway: string
  readonly forwarded: readonly Forwarded[]
  readonly mediated: readonly Mediated[]
  readonly sources: readonly Source[]
  /** The proxy's, on the gateway's address. */
  readonly proxyPort: number
  /** Rules of our chains that stay as they are (`restrictionsOf`). */
  readonly kept: readonly string[]
}

/** A rule of a chain of the host's that leads into one of ours. */
interface Jump {
  readonly table: 'raw' | 'nat' | 'filter'
  readonly chain: string
  readonly rule: string
  /** Ours comes before what is there; else after it. */
  readonly isFirst: boolean
}

/** Loopback addresses are left to the host itself: whoever is beside it on a network could send to them, too. */
function jumps({ chains, owner }: NetworkNames): readonly Jump[] {
  const comment = `-m comment --comment "${owner}"`
  return [
    { table: 'raw', chain: 'PREROUTING', rule: `${comment} -j ${chains.raw}`, isFirst: true },
    {
      table: 'nat',
      chain: 'PREROUTING',
      rule: `! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL ${comment} -j ${chains.ports}`,
      isFirst: false,
    },
    { table: 'nat', chain: 'OUTPUT', rule: `-m addrtype --dst-type LOCAL ${comment} -j ${chains.ports}`, isFirst: false },
    { table: 'nat', chain: 'POSTROUTING', rule: `${comment} -j ${chains.source}`, isFirst: false },
    { table: 'filter', chain: 'FORWARD', rule: `${comment} -j ${chains.forward}`, isFirst: true },
    { table: 'filter', chain: 'OUTPUT', rule: `${comment} -j ${chains.local}`, isFirst: true },
    { table: 'filter', chain: 'INPUT', rule: `${comment} -j ${chains.input}`, isFirst: true },
  ]
}

/** Which of our jumps the host's rules have (the output of iptables-save): chain of the host and chain of ours. */
export function presentJumps(saved: string, { chains }: NetworkNames): readonly { readonly chain: string; readonly target: string }[] {
  const ours = new Set(Object.values(chains))
  return saved.split('\n').flatMap((line) => {
    const match = /^-A (\S+) .*-j (\S+)$/.exec(line)
    const [, chain = '', target = ''] = match ?? []
    return ours.has(target) ? [{ chain, target }] : []
  })
}

/** Whether the host's rules have anything of ours. */
export function hasRules(saved: string, { chains }: NetworkNames): boolean {
  return Object.values(chains).some((chain) => saved.includes(`:${chain} `))
}

/** The rules (of the output of iptables-save) that keep a guest from going out directly or under another address, told by its device. */
export function restrictionsOf(saved: string, { chains }: NetworkNames, device: string): readonly string[] {
  // An address comes before the device there.
  const begins = [`-A ${chains.raw} (?:! -s \\S+ )?`, `-A ${chains.forward} `, `-A ${chains.input} `]
  const rule = new RegExp(`^(?:${begins.join('|')})-i ${device} `)
  return saved.split('\n').filter((line) => rule.test(line))
}

const REFUSED = '-j REJECT --reject-with tcp-reset'

/** What a guest of the proxy may not do. What is already connected, by a published port, is never new. */
function restrictions({ chains }: NetworkNames, { device, mode }: Mediated): readonly string[] {
  // The port that the guest has asked for, wherever a rule leads that to.
  const ports = mode === 'all' ? [''] : [' --ctorigdstport 80', ' --ctorigdstport 443']
  return [chains.forward, chains.input].flatMap((chain) => [
    ...ports.map((port) => `-A ${chain} -i ${device} -p tcp -m conntrack --ctstate NEW${port} ${REFUSED}`),
    // What belongs to no connection would be let through as well; an answer to it could break one that is in order.
    `-A ${chain} -i ${device} -p tcp -m conntrack --ctstate INVALID -j DROP`,
  ])
}

/** All chains of ours with what is to be in force, and the jumps that are `missing`. */
export function rulesText(
  names: NetworkNames,
  { subnet, gateway, forwarded, mediated, sources, proxyPort, kept }: RuleSet,
  missing: (jump: { readonly chain: string; readonly target: string }) => boolean,
): string {
  const { chains, tapPrefix } = names
  const taps = `${tapPrefix}+`
  const toProxy = `-p tcp -d ${gateway} --dport ${proxyPort}`
  const isOfRaw = (rule: string): boolean => rule.startsWith(`-A ${chains.raw} `)
  const restricted = [...kept.filter((rule) => !isOfRaw(rule)), ...mediated.flatMap((guest) => restrictions(names, guest))]
  const added = (table: Jump['table']): string[] =>
    jumps(names)
      .filter((jump) => jump.table === table && missing({ chain: jump.chain, target: jump.rule.split(' ').at(-1) ?? '' }))
      .map(({ chain, rule, isFirst }) => `${isFirst ? '-I' : '-A'} ${chain} ${rule}`)
  return tables({
    raw: [
      `:${chains.raw} - [0:0]`,
      // A device that leads connections of the host's own into its guest takes loopback addresses, which are then open to the guest as well.
      `-A ${chains.raw} -i ${taps} -d 127.0.0.0/8 -j DROP`,
      // The device refuses other addresses by itself (rp_filter), unless the host's setting for all devices is 2, which counts more.
      ...kept.filter(isOfRaw),
      ...sources.map(({ device, address }) => `-A ${chains.raw} ! -s ${address} -i ${device} -j DROP`),
      ...added('raw'),
    ],
    nat: [
      `:${chains.ports} - [0:0]`,
      `:${chains.source} - [0:0]`,
      ...forwarded.flatMap(({ address, ports }) => ports.map((port) => `-A ${chains.ports} ${forwardOf(address, port)}`)),
      // So that the guest's answer comes back: no guest can answer to a loopback address, nor to another guest's.
      `-A ${chains.source} -s 127.0.0.0/8 -o ${taps} -j MASQUERADE`,
      `-A ${chains.source} -s ${subnet} -j MASQUERADE`,
      ...added('nat'),
    ],
    filter: [
      `:${chains.forward} - [0:0]`,
      `:${chains.local} - [0:0]`,
      `:${chains.input} - [0:0]`,
      // Whatever the host's own rules say, and before what a guest may not.
      ...mediated.flatMap(({ device, address }) =>
        address === null ? [] : [`-A ${chains.input} -i ${device} -s ${address} ${toProxy} -j ACCEPT`],
      ),
      ...restricted,
      ...(mediated.length > 0 ? [`-A ${chains.input} -i ${taps} ${toProxy} ${REFUSED}`] : []),
      // Whoever is still connected to a guest that is gone is told so, and its address leads nowhere else. What the host itself sends to a published port is on its way to
      // a loopback device here, whatever becomes of it: it is left alone.
      ...[
        [chains.forward, ''],
        [chains.local, ' -m conntrack ! --ctstate DNAT'],
      ].flatMap(([chain, unless]) => [
        `-A ${chain} -d ${subnet} ! -o ${anyTap}${unless} -p tcp -j REJECT --reject-with tcp-reset`,
        `-A ${chain} -d ${subnet} ! -o ${anyTap}${unless} -j REJECT`,
      ]),
      // Guests reach each other by published ports alone, as everybody does.
      `-A ${chains.forward} -i ${taps} -o ${anyTap} -m conntrack ! --ctstate DNAT -j DROP`,
      `-A ${chains.forward} -i ${taps} -j ACCEPT`,
      `-A ${chains.forward} -o ${taps} -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT`,
      `-A ${chains.forward} -o ${taps} -j DROP`,
      ...added('filter'),
    ],
  })
}

/** Takes the jumps that are there, and the chains, away. */
export function removalText(names: NetworkNames, saved: string): string {
  const present = presentJumps(saved, names)
  const tablesOf = {
    raw: [names.chains.raw],
    nat: [names.chains.ports, names.chains.source],
    filter: [names.chains.forward, names.chains.local, names.chains.input],
  }
  const gone = (table: Jump['table']): string[] => {
    const there = tablesOf[table].filter((chain) => saved.includes(`:${chain} `))
    const removed = jumps(names).filter(
      (jump) => jump.table === table && present.some(({ chain, target }) => chain === jump.chain && jump.rule.endsWith(` ${target}`)),
    )
    return [
      ...removed.map(({ chain, rule }) => `-D ${chain} ${rule}`),
      ...there.flatMap((chain) => [`-F ${chain}`]),
      ...there.flatMap((chain) => [`-X ${chain}`]),
    ]
  }
  return tables({ raw: gone('raw'), nat: gone('nat'), filter: gone('filter') })
}

function tables(lines: Readonly<Record<Jump['table'], readonly string[]>>): string {
  return Object.entries(lines)
    .filter(([, rules]) => rules.length > 0)
    .map(([table, rules]) => [`*${table}`, ...rules, 'COMMIT', ''].join('\n'))
    .join('')
}

function forwardOf(address: string, { protocol, hostAddress, hostPort, guestPort }: PublishedPort): string {
  const to = isIPv4(hostAddress) && hostAddress !== '0.0.0.0' ? `-d ${hostAddress} ` : ''
  return `${to}-p ${protocol} --dport ${hostPort} -j DNAT --to-destination ${address}:${guestPort}`
}
