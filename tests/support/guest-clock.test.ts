// What a reading of a guest's clock proves: never more than is so, and an error that is larger than the reading took.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { boundsOf, provenOffset } from './guest-clock.ts'

const took = fc.integer({ min: 0, max: 10_000 })

test('what is proven of a clock is never more than its error, and at most what the reading took less', () => {
  fc.assert(
    fc.property(fc.integer({ min: -100_000, max: 100_000 }), took, took, (errorMs, beforeMs, afterMs) => {
      const read = 1_795_963_633_000
      const bounds = boundsOf(read - beforeMs, read + errorMs, read + afterMs)
      assert.ok(bounds.least <= errorMs && errorMs <= bounds.most)
      const proven = provenOffset(bounds)
      assert.ok(proven >= 0 && proven <= Math.abs(errorMs))
      assert.ok(proven >= Math.abs(errorMs) - beforeMs - afterMs)
    }),
  )
})
