// Rows out of numbers: what counts as met, and which of the numbers are told.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { against, judged, limitRow, limitsRow, median, rateRow, ratioRow, toldRow } from './measure.ts'

test('the median of an even number of runs is the worse of the two in the middle', () => {
  assert.equal(median([4, 1, 3, 2]), 3)
  assert.equal(median([5]), 5)
  assert.ok(Number.isNaN(median([])))
})

test('a ratio is of medians, and met up to its target', () => {
  const row = ratioRow('S1', 'fork', 1.3, [130, 90, 900], [100, 100, 1])
  assert.deepEqual([row.value, row.floor, row.ratio, row.ofTarget, row.met, row.runs], [130, 100, 1.3, 1, true, 3])
  assert.equal(row.target, '≤ 1.3 × floor')
  assert.equal(ratioRow('S1', 'fork', 1.3, [131], [100]).met, false)
  assert.equal(ratioRow('S2', 'fork', 1 / 20, [131], [100], '≤ 1/20 × create').target, '≤ 1/20 × create')
})

test('a limit is for the median; the tenth run out of ten is told too', () => {
  const row = limitRow('S9', 'list', 'ms', 60, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100])
  assert.deepEqual([row.value, row.p90, row.ofTarget, row.met], [60, 100, 1, true])
  assert.equal(limitRow('S9', 'list', 'ms', 60, [61]).met, false)
})

test('runs that have targets of their own are judged one by one', () => {
  const row = limitsRow('S3', 'paused', 'ms', [10, 100, 1000], [20, 50, 100], '…')
  assert.deepEqual([row.value, row.ofTarget, row.met], [50, 0.5, true])
})

test('of a rate more is better, and nine of ten runs were at least as good as its p90', () => {
  const row = rateRow('S9', 'lookups', '/s', 3000, [1000, 4000, 5000, 6000, 7000, 8000, 9000, 9000, 9000, 9000])
  assert.deepEqual([row.value, row.p90, row.met], [8000, 4000, true])
  assert.equal(rateRow('S9', 'lookups', '/s', 3000, [1500]).ofTarget, 2)
})

test('a number that is only told is neither met nor missed', () => {
  const row = toldRow('S4', 'stall', 'ms', [7])
  assert.deepEqual([row.met, row.ofTarget, row.target], [null, undefined, '-'])
  assert.equal(judged(row, 'none', 3).met, false)
})

test('a floor beside a row leaves its target alone', () => {
  const row = against(limitRow('S3', 'paused', 'ms', 25, [50]), [10, 10, 5])
  assert.deepEqual([row.floor, row.ratio, row.ofTarget, row.met], [10, 5, 2, false])
})

test('a row without numbers is not met', () => {
  assert.equal(ratioRow('S1', 'fork', 1.3, [], []).met, false)
})
