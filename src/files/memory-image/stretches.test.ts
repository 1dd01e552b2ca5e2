// Stretches of several lists of pages are what a look at every page says.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { pages, somePages } from '../../../tests/support/guest-memory.ts'
import type { PageRun } from './private-pages.ts'
import { groupsOf, stretchesOf } from './stretches.ts'

function runsOf(set: ReadonlySet<number>): PageRun[] {
  const runs: { first: number; count: number }[] = []
  for (const page of [...set].toSorted((one, other) => one - other)) {
    const last = runs.at(-1)
    if (last !== undefined && last.first + last.count === page) last.count += 1
    else runs.push({ first: page, count: 1 })
  }
  return runs
}

test('each page of any list is in one stretch, in order, with its place in every list that has it', () => {
  fc.assert(
    fc.property(fc.array(somePages, { maxLength: 5 }), fc.integer({ min: 1, max: 64 }), (sets, longest) => {
      const found = [...stretchesOf(sets.map(runsOf), longest)].flatMap(({ first, count, at }) => {
        assert.ok(count <= longest)
        return Array.from(
          { length: count },
          (_, index) => [first + index, at.map((place) => (place === undefined ? undefined : place + index))] as const,
        )
      })
      const places = sets.map((set) => new Map([...set].toSorted((one, other) => one - other).map((page, index) => [page, index])))
      const expected = Array.from({ length: pages }, (_, page) => [page, places.map((of) => of.get(page))] as const)
      assert.deepEqual(
        found,
        expected.filter(([, at]) => at.some((place) => place !== undefined)),
      )
    }),
  )
})

test('groups have all stretches in order, and none more pages than it may', () => {
  fc.assert(
    fc.property(somePages, somePages, fc.integer({ min: 1, max: 64 }), (one, other, most) => {
      const stretches = [...stretchesOf([runsOf(one), runsOf(other)], most)]
      const groups = [...groupsOf(stretches, most)]
      assert.deepEqual(groups.flat(), stretches)
      for (const group of groups) {
        const sum = group.reduce((all, { count }) => all + count, 0)
        assert.ok(sum > 0 && sum <= most)
      }
    }),
  )
})
