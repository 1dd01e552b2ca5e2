// Rules as text: what is published to whom, what leads into our chains, and that what is added is what is taken away.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { networkNames } from './names.ts'
import type { PublishedPort } from './ports.ts'
import { hasRules, presentJumps, removalText, restrictionsOf, rulesText, type Mediated, type RuleSet } from './rules.ts'

const names = networkNames('/var/lib/hypeman')
const port: PublishedPort = { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: false }
const none: RuleSet = {
  subnet: '10.100.0.0/16',
  gateway: '10.100.0.1',
  forwarded: [],
  mediated: [],
  sources: [],
  proxyPort: 4974,
  kept: [],
}
const everythingMissing = (): boolean => true
const all = rulesText(
  names,
  { ...none, forwarded: [{ address: '10.100.9.7', ports: [port, { ...port, hostAddress: '0.0.0.0', protocol: 'udp' }] }] },
  everythingMissing,
)

test('a port is published on its address alone, or on all of the host', () => {
  assert.ok(all.includes(`-A ${names.chains.ports} -d 127.0.0.1 -p tcp --dport 8080 -j DNAT --to-destination 10.100.9.7:80\n`))
  assert.ok(all.includes(`-A ${names.chains.ports} -p udp --dport 8080 -j DNAT --to-destination 10.100.9.7:80\n`))
})

test('what was published for loopback is not reached from beside the host', () => {
  const [jump = ''] = all.split('\n').filter((line) => line.startsWith('-A PREROUTING'))
  assert.match(jump, /! -d 127\.0\.0\.0\/8 /)
})

test('jumps that are there are not made again, and every one that was made is taken away with its chain', () => {
  const jumps = all.split('\n').filter((line) => /^-[AI] (PREROUTING|OUTPUT|POSTROUTING|FORWARD|INPUT) /.test(line))
  assert.equal(jumps.length, 7)
  const saved = [...Object.values(names.chains).map((chain) => `:${chain} - [0:0]`), ...jumps.map((line) => line.replace('-I', '-A'))].join(
    '\n',
  )
  const present = presentJumps(saved, names)
  assert.equal(present.length, jumps.length)
  const again = rulesText(names, none, ({ chain, target }) => !present.some((one) => one.chain === chain && one.target === target))
  assert.doesNotMatch(again, /^-[AI] (PREROUTING|OUTPUT|POSTROUTING|FORWARD|INPUT) /m)
  const removal = removalText(names, saved)
  for (const line of jumps) assert.ok(removal.includes(`${line.replace(/^-[AI]/, '-D')}\n`), line)
  for (const chain of Object.values(names.chains)) assert.ok(removal.includes(`-F ${chain}\n`) && removal.includes(`-X ${chain}\n`), chain)
})

test('nothing is taken away where nothing is ours', () => {
  const other = networkNames('/somewhere/else')
  assert.ok(!hasRules(all, other) && hasRules(all, names))
  assert.equal(removalText(other, all), '')
})

const { forward, input } = names.chains
const guest: Mediated = { device: names.tap('one'), address: '10.100.9.7', mode: 'all' }
const rulesOf = (chain: string, mediated: readonly Mediated[], kept: readonly string[] = []): readonly string[] =>
  rulesText(names, { ...none, mediated, kept }, everythingMissing)
    .split('\n')
    .filter((line) => line.startsWith(`-A ${chain} `))
const RESET = '-j REJECT --reject-with tcp-reset'

test('a guest of the proxy reaches that, and by no other new connection anything, before any rule lets it', () => {
  const [toProxy, others] = [
    `-A ${input} -i ${guest.device} -s 10.100.9.7 -p tcp -d 10.100.0.1 --dport 4974 -j ACCEPT`,
    `-A ${input} -i ${names.tapPrefix}+ -p tcp -d 10.100.0.1 --dport 4974 ${RESET}`,
  ]
  const restriction = (chain: string): string[] => [
    `-A ${chain} -i ${guest.device} -p tcp -m conntrack --ctstate NEW ${RESET}`,
    `-A ${chain} -i ${guest.device} -p tcp -m conntrack --ctstate INVALID -j DROP`,
  ]
  assert.deepEqual(rulesOf(input, [guest]), [toProxy, ...restriction(input), others])
  assert.deepEqual(rulesOf(forward, [guest]).slice(0, 2), restriction(forward))
  assert.deepEqual(rulesOf(forward, [guest]).slice(2), rulesOf(forward, []), 'other guests have the rules that they had')
})

test('with http_https_only that is so of ports 80 and 443 alone', () => {
  const refused = rulesOf(forward, [{ ...guest, mode: 'http_https_only' }]).filter((line) => line.endsWith(RESET) && line.includes('NEW'))
  assert.deepEqual(
    refused.map((line) => /--ctorigdstport (\d+)/.exec(line)?.[1]),
    ['80', '443'],
  )
})

test('without an address not even the proxy is reached, and without such guests nothing is kept from the host', () => {
  assert.ok(!rulesOf(input, [{ ...guest, address: null }]).some((line) => line.endsWith('-j ACCEPT')))
  assert.deepEqual(rulesOf(input, []), [])
})

test('a guest sends under its own address alone, told by its device, and that is read back and kept as well', () => {
  const source = { device: guest.device, address: '10.100.9.7' }
  const rule = `-A ${names.chains.raw} ! -s 10.100.9.7 -i ${guest.device} -j DROP`
  const written = rulesText(names, { ...none, sources: [source] }, everythingMissing)
  assert.ok(written.includes(`${rule}\n`))
  const saved = written.replace(' 10.100.9.7 ', ' 10.100.9.7/32 ')
  const kept = restrictionsOf(saved, names, guest.device)
  assert.deepEqual(kept, [rule.replace(' 10.100.9.7 ', ' 10.100.9.7/32 ')])
  assert.deepEqual(restrictionsOf(saved, names, names.tap('other')), [])
  const [raw = ''] = rulesText(names, { ...none, kept }, everythingMissing).split('COMMIT')
  assert.ok(raw.includes(`${kept[0]}\n`), 'in its own table')
})

test('what a guest may not do is read back by its device, and kept as it was', () => {
  const other: Mediated = { ...guest, device: names.tap('other'), mode: 'http_https_only' }
  const written = rulesText(names, { ...none, mediated: [guest, other] }, everythingMissing)
  const kept = restrictionsOf(written, names, other.device)
  assert.ok(kept.length > 0 && kept.every((line) => line.includes(` -i ${other.device} `)))
  const [text, again] = [written, rulesText(names, { ...none, mediated: [guest], kept }, everythingMissing)]
  for (const rule of kept) assert.ok(again.includes(`${rule}\n`) && text.includes(`${rule}\n`), rule)
})
