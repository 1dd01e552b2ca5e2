import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { addressOf, numberOf, parseSubnet } from './ipv4.ts'

test('an address and its number say the same; what is no address has none', () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (number) => numberOf(addressOf(number)) === number))
  for (const text of ['', '1.2.3', '1.2.3.4.5', '256.1.1.1', '1.2.3.x', '::1', ' 1.2.3.4']) assert.equal(numberOf(text), undefined, text)
})

test('a subnet has its first address for the host; one that is too small, too large, or names an address inside is none', () => {
  assert.deepEqual(parseSubnet('10.100.0.0/16'), { first: 0x0a640000, last: 0x0a64ffff, prefixBits: 16, gateway: '10.100.0.1' })
  for (const text of ['10.100.0.1/16', '10.0.0.0/7', '10.0.0.0/29', '10.0.0.0', '10.0.0.0/16/1', '10.0.0.0/x', 'fd00::/16', ''])
    assert.equal(parseSubnet(text), undefined, text)
})
