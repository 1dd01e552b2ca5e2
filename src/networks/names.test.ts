import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { newId } from '../platform/ids.ts'
import { networkNames } from './names.ts'

test('devices have names that the kernel takes, that say whose they are, and that are different for different instances', () => {
  fc.assert(
    fc.property(fc.string(), (root) => {
      const names = networkNames(root)
      const ids = Array.from({ length: 100 }, newId)
      const taps = ids.map((id) => names.tap(id))
      assert.equal(new Set([...taps, ...ids.map((id) => names.shaper(id))]).size, 200)
      for (const tap of taps) assert.ok(/^hmt[a-z0-9]{12}$/.test(tap) && tap.startsWith(names.tapPrefix))
    }),
    { numRuns: 20 },
  )
})

test('names of two data directories are different, and chains are not longer than iptables takes', () => {
  const [one, other] = [networkNames('/data/one'), networkNames('/data/two')]
  assert.notEqual(one.tapPrefix, other.tapPrefix)
  for (const chain of Object.values(one.chains)) assert.ok(chain.length <= 28 && !Object.values(other.chains).includes(chain))
})

test('what rules say of whose they are stays inside of its quotation marks', () => {
  assert.doesNotMatch(networkNames('/data/"x"\n-j ACCEPT').owner, /["\n]/)
})
