// Ids on the command line: which measurements they mean.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Measurement } from './measure.ts'
import { byId, knownIds, pick } from './picks.ts'
import { absent, measurements } from './rows.ts'

const of = (...ids: string[]): Measurement => ({ ids, run: async () => [] })
const all = [of('S1'), of('S3', 'S5', 'snapshot'), of('S10')]
const missing = { S11: 'not built' }

test('no ids mean all, and what can not be measured is told', () => {
  const picked = pick([], all, missing)
  assert.deepEqual(picked.measurements, all)
  assert.deepEqual(picked.absent, [['S11', 'not built']])
  assert.ok(picked.wants('S5'))
})

test('an id picks its measurement, and of several rows only its own', () => {
  const picked = pick(['S5'], all, missing)
  assert.deepEqual(picked.measurements, [all[1]])
  assert.deepEqual([picked.wants('S5'), picked.wants('S3')], [true, false])
  assert.deepEqual(picked.absent, [])
})

test('a row that can not be measured is known, but measures nothing', () => {
  const picked = pick(['S11'], all, missing)
  assert.deepEqual([picked.measurements, picked.absent, picked.unknown], [[], [['S11', 'not built']], []])
})

test('what no measurement has is unknown, also in another case', () => {
  assert.deepEqual(pick(['S1', 's1', 'S99'], all, missing).unknown, ['s1', 'S99'])
})

test('ids are ordered by number, those without one come after', () => {
  assert.deepEqual(['snapshot', 'S10', 'S4b', 'create', 'S4', 'S2'].toSorted(byId), ['S2', 'S4', 'S4b', 'S10', 'create', 'snapshot'])
})

test('every row of the specification is measured once, or told to be absent', () => {
  const numbered = ['S1', 'S2', 'S3', 'S4', 'S4b', 'S5', 'S6', 'S7', 'S8', 'S9', 'S10', 'S11', 'S12']
  assert.deepEqual(knownIds(measurements, absent), [...numbered, 'create', 'H1', 'L1', 'L2', 'L3', 'L4', 'memory', 'snapshot'])
})
