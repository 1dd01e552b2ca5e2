// Rules as text: what is published to whom, what leads into our chains, and that what is added is what is taken away.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { networkNames } from './names.ts'
import type { PublishedPort } from './ports.ts'
import { hasRules, presentJumps, removalText, rulesText } from './rules.ts'

const names = networkNames('/var/lib/hypeman')
const port: PublishedPort = { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: false }
const all = rulesText(
  names,
  '10.100.0.0/16',
  [{ address: '10.100.9.7', ports: [port, { ...port, hostAddress: '0.0.0.0', protocol: 'udp' }] }],
  () => true,
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
  const jumps = all.split('\n').filter((line) => /^-[AI] (PREROUTING|OUTPUT|POSTROUTING|FORWARD) /.test(line))
  assert.equal(jumps.length, 6)
  const saved = [...Object.values(names.chains).map((chain) => `:${chain} - [0:0]`), ...jumps.map((line) => line.replace('-I', '-A'))].join(
    '\n',
  )
  const present = presentJumps(saved, names)
  assert.equal(present.length, jumps.length)
  const again = rulesText(
    names,
    '10.100.0.0/16',
    [],
    ({ chain, target }) => !present.some((one) => one.chain === chain && one.target === target),
  )
  assert.doesNotMatch(again, /^-[AI] (PREROUTING|OUTPUT|POSTROUTING|FORWARD) /m)
  const removal = removalText(names, saved)
  for (const line of jumps) assert.ok(removal.includes(`${line.replace(/^-[AI]/, '-D')}\n`), line)
  for (const chain of Object.values(names.chains)) assert.ok(removal.includes(`-F ${chain}\n`) && removal.includes(`-X ${chain}\n`), chain)
})

test('nothing is taken away where nothing is ours', () => {
  const other = networkNames('/somewhere/else')
  assert.ok(!hasRules(all, other) && hasRules(all, names))
  assert.equal(removalText(other, all), '')
})
