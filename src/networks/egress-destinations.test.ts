// Where guests may be led by the proxy: what is the host's own, and what of its kernel's tables says so.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { test } from 'node:test'
import fc from 'fast-check'
import { serveNames } from '../../tests/support/dns.ts'
import { parseSubnet } from '../platform/ipv4.ts'
import { addressesOfIpv6, hostView, localNetworks, refusalsBy, refusalsOf, resolveBy, type HostView } from './egress-destinations.ts'

const view: HostView = { own: ['192.0.2.7/32', '10.9.0.0/24', '2001:db8:0:0:0:0:0:7/128'], guests: ['10.100.0.0/16', '10.50.0.9/32'] }

const refusalOf = refusalsOf(view)

test('what is the host, guests, or for hosts alone is refused, in whatever way it is written', () => {
  for (const address of [
    ...['127.0.0.1', '127.9.9.9', '0.0.0.0', '::1', '::', '::ffff:127.0.0.1', '::ffff:192.0.2.7', '::ffff:8.8.8.8', '::127.0.0.1'],
    ...['192.0.2.7', '10.9.0.200', '2001:db8::7', '10.100.0.1', '10.100.255.255', '10.50.0.9'],
    ...['169.254.169.254', 'fe80::1', 'fe80::1%eth0', 'fd00:ec2::254', 'fd20:ce::254', '168.63.129.16', '100.100.100.200'],
    ...['224.0.0.1', '239.255.255.250', '255.255.255.255', 'ff02::1', '64:ff9b::7f00:1', '2002:7f00:1::', '2001:0:1::', 'name', ''],
  ])
    assert.notEqual(refusalOf(address), undefined, address)
})

test('everything else is fine, also on private networks', () => {
  for (const address of [
    '1.1.1.1',
    '192.0.2.8',
    '10.8.0.1',
    '10.101.0.1',
    '10.50.0.8',
    '192.168.1.1',
    '2606:4700::1111',
    '2001:db8::8',
    'fd12::1',
  ])
    assert.equal(refusalOf(address), undefined, address)
})

test('of IPv4 as of IPv6 no address of a refused network gets through', () => {
  const byte = fc.integer({ min: 0, max: 255 })
  fc.assert(
    fc.property(fc.constantFrom('127', '0', '224', '239', '240', '255'), byte, byte, byte, (first, ...rest) => {
      const address = [first, ...rest].join('.')
      assert.notEqual(refusalOf(address), undefined)
      assert.notEqual(refusalOf(`::ffff:${address}`), undefined)
    }),
  )
})

const trie = [
  'Main:',
  '  +-- 0.0.0.0/0 3 0 5',
  '     |-- 0.0.0.0',
  '        /0 universe UNICAST',
  'Local:',
  '  +-- 0.0.0.0/0 2 0 2',
  '     +-- 127.0.0.0/8 2 0 2',
  '        +-- 127.0.0.0/31 1 0 0',
  '           |-- 127.0.0.0',
  '              /8 host LOCAL',
  '           |-- 127.0.0.1',
  '              /32 host LOCAL',
  '     |-- 192.0.2.7',
  '        /32 host LOCAL',
  '     |-- 192.0.2.255',
  '        /32 link BROADCAST',
].join('\n')

test("the kernel's tables are read, and whatever stands in them", () => {
  assert.deepEqual(localNetworks(trie), ['127.0.0.0/8', '127.0.0.1/32', '192.0.2.7/32'])
  assert.deepEqual(addressesOfIpv6('20010db8000000000000000000000007 02 40 00 80     eth0\n\n'), [
    '2001:0db8:0000:0000:0000:0000:0000:0007',
  ])
  fc.assert(fc.property(fc.string(), (text) => Array.isArray(localNetworks(text)) && Array.isArray(addressesOfIpv6(text))))
})

test('every address of this very host is its own', async () => {
  const subnet = parseSubnet('10.214.0.0/24') ?? assert.fail()
  const refusal = refusalsOf(await hostView(subnet))
  const addresses = Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address))
  assert.ok(addresses.length > 0 && (await readFile('/proc/net/fib_trie', 'latin1')).includes('Local:'))
  for (const address of [...addresses, '10.214.0.1', '10.214.0.77']) assert.notEqual(refusal(address), undefined, address)
})

test('the host is looked at once for all who ask within a second, and again afterwards, or when looking failed', async () => {
  let [looks, time] = [0, 0]
  let fails = false
  const refusal = refusalsBy(
    async () => {
      looks += 1
      if (fails) throw new Error('no such file')
      return { ...view, own: [`192.0.2.${looks}/32`] }
    },
    () => time,
  )
  assert.deepEqual(await Promise.all(['192.0.2.1', '192.0.2.2', '1.1.1.1'].map(refusal)), [
    'an address of the host itself',
    undefined,
    undefined,
  ])
  time = 999
  assert.deepEqual([await refusal('192.0.2.2'), looks], [undefined, 1])
  time = 1000
  assert.deepEqual([await refusal('192.0.2.2'), looks], ['an address of the host itself', 2])
  fails = true
  time = 2000
  await assert.rejects(refusal('1.1.1.1'), /no such file/)
  fails = false
  assert.deepEqual([await refusal('192.0.2.4'), looks], ['an address of the host itself', 4])
})

test('names are asked of the resolver that is set, and one that has no address is an error', async () => {
  await using names = await serveNames('127.0.0.1', 0, { 'inside.example': '127.0.0.1', 'world.example': '192.0.2.9' })
  const resolve = resolveBy(`127.0.0.1:${names.port}`)
  assert.deepEqual([await resolve('inside.example'), await resolve('world.example')], [['127.0.0.1'], ['192.0.2.9']])
  await assert.rejects(resolve('unknown.example'), /ENOTFOUND/)
})
