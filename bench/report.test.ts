// What is printed at the end.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limitRow, ratioRow, toldRow } from './measure.ts'
import { reportOf } from './report.ts'

test('rows come by their number, and what was not measured comes last, with its reason', () => {
  const rows = [toldRow('S10', 'growth', 'MB', [-0.5]), ratioRow('S1', 'fork', 1.3, [12], [10]), limitRow('S3', 'pause', 'ms', 25, [30])]
  const lines = reportOf({ machine: 'a machine', rows, missing: [{ id: 'S11', reason: 'not built' }] }).split('\n')
  assert.equal(lines[0], 'a machine')
  assert.match(lines[2] ?? '', /^ID +WHAT +MEDIAN +P90 +FLOOR +RATIO +TARGET +MET$/)
  assert.match(lines[3] ?? '', /^S1 +fork +12 ms +12 ms +10 ms +1\.20 +≤ 1\.3 × floor +yes$/)
  assert.match(lines[4] ?? '', /^S3 +pause .* NO$/)
  assert.match(lines[5] ?? '', /^S10 +growth +-0\.50 MB .* -$/)
  assert.deepEqual(lines.slice(6), ['', 'Not measured:', '  S11      not built'])
})

test('a report of nothing has no table', () => {
  assert.equal(reportOf({ machine: 'a machine', rows: [], missing: [] }), 'a machine')
})
