import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseSubnet, type Subnet } from '../platform/ipv4.ts'
import { freeAddress, isGuestAddress, overlaps, parseRoutes } from './subnet.ts'

const subnetOf = (text: string): Subnet => parseSubnet(text) ?? assert.fail(`${text} is a subnet`)

test('a free address is found as long as there is one, is none that is taken, and never the host’s', () => {
  const subnet = subnetOf('10.9.0.0/28')
  const all = Array.from({ length: 13 }, (_, index) => `10.9.0.${index + 2}`)
  fc.assert(
    fc.property(fc.subarray(all), (free) => {
      const found = freeAddress(subnet, (address) => !free.includes(address))
      assert.equal(found === undefined, free.length === 0)
      if (found !== undefined) assert.ok(free.includes(found) && isGuestAddress(subnet, found))
    }),
  )
})

test('neither the ends of a subnet, nor the host’s address, nor one outside is a guest’s', () => {
  const subnet = subnetOf('10.9.0.0/24')
  for (const address of ['10.9.0.0', '10.9.0.1', '10.9.0.255', '10.9.1.2', '10.8.255.255', 'x'])
    assert.ok(!isGuestAddress(subnet, address), address)
  for (const address of ['10.9.0.2', '10.9.0.254']) assert.ok(isGuestAddress(subnet, address), address)
})

const table = [
  'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT',
  'eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0',
  'eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0',
  'hmt1\t0709640A\t00000000\t0001\t0\t0\t0\tFFFFFFFF\t0\t0\t0',
  '',
].join('\n')

test('the routes of a host are read, and tell which subnets are in their way', () => {
  const [standard, link, guest] = parseRoutes(table)
  assert.deepEqual([standard?.device, standard?.isDefault, link?.isDefault], ['eth0', true, false])
  assert.deepEqual([guest?.first, guest?.last], [0x0a640907, 0x0a640907])
  assert.ok(standard !== undefined && link !== undefined && guest !== undefined)
  const on = (text: string): readonly boolean[] => [standard, link, guest].map((route) => overlaps(subnetOf(text), route))
  assert.deepEqual(on('10.100.0.0/16'), [false, false, true])
  assert.deepEqual(on('192.0.0.0/16'), [false, true, false])
  assert.deepEqual(on('192.0.2.16/28'), [false, true, false])
  assert.deepEqual(on('192.0.3.0/24'), [false, false, false])
})

test('whatever stands in the table, it is read or passed over', () => {
  fc.assert(fc.property(fc.string(), (text) => Array.isArray(parseRoutes(text))))
})
