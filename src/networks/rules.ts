// The firewall rules of guests on tap devices, as iptables-restore reads them. Pure. All that may change is in chains of our own, which are replaced whole: the rules that are in
// force never depend on those that were.

import { isIPv4 } from 'node:net'
import { anyTap, type NetworkNames } from './names.ts'
import type { PublishedPort } from './ports.ts'

/** What leads into a guest. */
export interface Forwarded {
  readonly address: string
  readonly ports: readonly PublishedPort[]
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

/** All chains of ours with what is to be in force, and the jumps that are `missing`. */
export function rulesText(
  names: NetworkNames,
  subnet: string,
  forwarded: readonly Forwarded[],
  missing: (jump: { readonly chain: string; readonly target: string }) => boolean,
): string {
  const { chains, tapPrefix } = names
  const taps = `${tapPrefix}+`
  const added = (table: Jump['table']): string[] =>
    jumps(names)
      .filter((jump) => jump.table === table && missing({ chain: jump.chain, target: jump.rule.split(' ').at(-1) ?? '' }))
      .map(({ chain, rule, isFirst }) => `${isFirst ? '-I' : '-A'} ${chain} ${rule}`)
  return tables({
    raw: [
      `:${chains.raw} - [0:0]`,
      // A device that leads connections of the host's own into its guest takes loopback addresses, which are then open to the guest as well.
      `-A ${chains.raw} -i ${taps} -d 127.0.0.0/8 -j DROP`,
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
    filter: [names.chains.forward, names.chains.local],
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
