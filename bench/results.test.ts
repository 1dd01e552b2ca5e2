// The file of the last numbers: what of it is replaced, what stays.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { limitRow, ratioRow, toldRow } from './measure.ts'
import { mergeResults, parseResults, printResults, type Result } from './results.ts'

const origin = { machine: 'a machine', commit: 'abc1234', date: '2026-11-25T03:19:23.434Z' }
const result = (id: string, what: string, commit = origin.commit): Result => ({
  ...limitRow(id, what, 'ms', 10, [5]),
  ...origin,
  commit,
})

test('rows that were measured again replace all of their id; the others keep their commit and date', () => {
  const before = [result('S10', 'idle'), result('S1', 'small', 'old'), result('S1', 'gone', 'old'), result('create', 'cold', 'old')]
  const merged = mergeResults(before, [result('S1', 'small', 'new')], ['S1', 'S10', 'create'])
  assert.deepEqual(
    merged.map(({ id, what, commit }) => [id, what, commit]),
    [
      ['S1', 'small', 'new'],
      ['S10', 'idle', 'abc1234'],
      ['create', 'cold', 'old'],
    ],
  )
})

test('rows that nothing measures any more go', () => {
  assert.deepEqual(mergeResults([result('fork', 'renamed')], [], ['S1']), [])
})

test('what is written is read as it was, with and without floor and target', () => {
  const results = [
    { ...ratioRow('S1', 'fork', 1.3, [1], [2]), ...origin },
    { ...toldRow('S4', 'stall', 'ms', [7]), ...origin },
  ]
  assert.deepEqual(parseResults(printResults(results)), results)
})

test('the numbers in the repository can be read', async () => {
  const file = path.join(import.meta.dirname, 'results', 'latest.json')
  assert.ok(parseResults(await readFile(file, 'utf8')).length > 0)
})
