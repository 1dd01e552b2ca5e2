// What is written for people is read back as the same number.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { formatBandwidth, parseBandwidth } from './units.ts'

test('a bandwidth that is written is read as the same bytes a second, whatever its unit', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 1e12 }), fc.constantFrom(1, 125, 125_000), (bytes, unit) => {
      const rounded = Math.ceil(bytes / unit) * unit
      assert.equal(parseBandwidth(formatBandwidth(rounded)), rounded)
    }),
    { numRuns: 2_000 },
  )
  // A product of two numbers that is off in its last digit is not rounded up.
  assert.equal(parseBandwidth('269858.351Mbps'), 33_732_293_875)
  assert.deepEqual(['1bps', '9bps', '8bps', '12.5kbps'].map(parseBandwidth), [1, 2, 1, 1_563])
})
