// The rows of the load figures out of samples.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { rowsOf } from './load.ts'

test('rate, p50 and p99 are rows of their own, each beside its floor; of rates the low ones are the bad ones', () => {
  const samples = [1, 2, 3].map((n) => ({ rate: n * 1_000, p50: n, p99: n * 10 }))
  const floors = [{ rate: 4_000, p50: 1, p99: 5 }]
  assert.deepEqual(
    rowsOf('L1', 'list', samples, floors).map(({ what, value, unit, p90, floor, ratio, met }) => [
      what,
      value,
      unit,
      p90,
      floor,
      ratio,
      met,
    ]),
    [
      ['list: a second', 2_000, '/s', 1_000, 4_000, 0.5, null],
      ['list: p50', 2, 'ms', 3, 1, 2, null],
      ['list: p99', 20, 'ms', 30, 5, 4, null],
    ],
  )
})
