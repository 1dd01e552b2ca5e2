import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { floorOf, planReclaim } from './reclaim-plan.ts'

const MIB = 1024 ** 2
const sizes = fc.array(
  fc.integer({ min: 64, max: 16_384 }).map((mib) => mib * MIB),
  { maxLength: 20 },
)
const sum = (numbers: readonly number[]): number => numbers.reduce((total, one) => total + one, 0)

test('a guest keeps half of what it was given, never less than 128 MiB, and never more than it has', () => {
  assert.deepEqual(
    [64, 200, 1024].map((mib) => floorOf(mib * MIB) / MIB),
    [64, 128, 512],
  )
})

test('no guest goes below its floor, and all give what is asked for, or all that they can spare', () => {
  fc.assert(
    fc.property(sizes, fc.nat(2 ** 40), (assigned, bytes) => {
      const plan = planReclaim(assigned, bytes)
      assert.equal(plan.length, assigned.length)
      for (const [at, given] of plan.entries()) {
        assert.ok(given >= 0 && given % MIB === 0)
        assert.ok((assigned[at] ?? 0) - given >= floorOf(assigned[at] ?? 0))
      }
      const spare = sum(assigned.map((one) => Math.floor((one - floorOf(one)) / MIB) * MIB))
      assert.equal(sum(plan), Math.min(Math.floor(bytes / MIB) * MIB, spare))
    }),
  )
})

test('each gives in proportion to what it has above its floor, to the MiB; those of one size give the same, to the MiB', () => {
  fc.assert(
    fc.property(sizes, fc.nat(2 ** 40), (assigned, bytes) => {
      const plan = planReclaim(assigned, bytes)
      const spare = assigned.map((one) => one - floorOf(one))
      for (const [at, given] of plan.entries()) {
        const fair = sum(spare) === 0 ? 0 : ((spare[at] ?? 0) * sum(plan)) / sum(spare)
        // What can be spared is cut to whole MiB as well.
        assert.ok(Math.abs(given - fair) <= 2 * MIB, `${given} instead of ${fair}`)
        const twin = assigned.indexOf(assigned[at] ?? 0)
        assert.ok(Math.abs(given - (plan[twin] ?? 0)) <= MIB)
      }
    }),
  )
})
