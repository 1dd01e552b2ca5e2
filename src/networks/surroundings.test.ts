import assert from 'node:assert/strict'
import { test } from 'node:test'
import { resolversIn } from './surroundings.ts'

test('resolvers that a guest can reach are taken, at most three; loopback addresses and IPv6 are not', () => {
  const text = [
    '# nameserver 1.1.1.1',
    'nameserver 127.0.0.53',
    'nameserver fd00::1',
    'search lan',
    'nameserver 10.0.0.2',
    ' nameserver\t9.9.9.9',
  ]
  assert.deepEqual(resolversIn(text.join('\n')), ['10.0.0.2', '9.9.9.9'])
  assert.equal(resolversIn([1, 2, 3, 4].map((last) => `nameserver 10.0.0.${last}`).join('\n')).length, 3)
  assert.deepEqual(resolversIn(''), [])
})
