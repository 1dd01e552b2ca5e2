// Tables, sizes and times as people see them.

import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { until } from '../../../tests/support/until.ts'
import { startProgress } from './progress.ts'
import { displayWidth, tableLines, type Column } from './table.ts'
import { ago, imageName, milliseconds, size } from './text.ts'

interface Row {
  readonly name: string
  readonly note: string
}
const columns: readonly Column<Row>[] = [
  { title: 'NAME', value: (row) => row.name },
  { title: 'NOTE', value: (row) => row.note, cut: true },
]

test('columns are as wide as their widest cell, also with wide characters', () => {
  assert.deepEqual(
    tableLines(columns, [
      { name: '日本', note: 'x' },
      { name: 'a', note: 'yy' },
    ]),
    ['NAME   NOTE', '日本   x', 'a      yy'],
  )
})

test('on a narrow terminal the columns that allow it are cut, and no line wraps', () => {
  const lines = tableLines(columns, [{ name: 'a-long-name', note: 'a very long note that does not fit' }], { width: 30 })
  assert.deepEqual(lines, ['NAME          NOTE', 'a-long-name   a very long not…'])
  assert.ok(lines.every((line) => displayWidth(line) <= 30))
})

test('control characters in what the server says do not reach the terminal', () => {
  assert.deepEqual(tableLines(columns, [{ name: 'a\x1b[31mb', note: 'c\r\nd' }])[1], 'ab     c d')
})

test('sizes, times and durations', () => {
  assert.deepEqual([0, 1023, 1024, 1.5 * 1024 ** 3].map(size), ['0 B', '1023 B', '1.0 KB', '1.5 GB'])
  const now = Date.parse('2026-01-01T12:00:00Z')
  const agos = ['2026-01-01T12:00:00Z', '2026-01-01T11:59:59Z', '2026-01-01T11:00:00Z', '2025-12-29T12:00:00Z', '2026-01-01T12:00:30Z']
  assert.deepEqual(
    agos.map((time) => ago(time, now)),
    ['just now', '1 second ago', '60 minutes ago', '3 days ago', 'in 30 seconds'],
  )
  assert.deepEqual([0.42, 412.3, 12_345].map(milliseconds), ['0.4 ms', '412 ms', '12.3 s'])
  assert.equal(imageName('docker.io/library/alpine:3'), 'alpine:3')
})

test('without a terminal a text that lasts is a line, and one that is gone at once is not; details are for terminals', async () => {
  const stream = new PassThrough()
  using progress = startProgress(stream)
  progress.say('Looking up alpine')
  progress.say('Pulling alpine', '1 %')
  progress.say('Pulling alpine', '2 %')
  await until('the text has lasted', () => stream.readableLength > 0)
  assert.equal(String(stream.read()), 'Pulling alpine\n')
})
