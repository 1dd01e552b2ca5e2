// Records with checksums: what was written comes back, and a text that is not what was written is no record.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseRecordText, recordText } from './record-text.ts'

const value = fc.dictionary(
  fc.string().filter((key) => key !== 'checksum'),
  fc.jsonValue({ maxDepth: 3 }),
)

test('what was written comes back, with its properties in order', () => {
  fc.assert(
    fc.property(value, (record) => {
      assert.equal(JSON.stringify(parseRecordText(recordText(record), true)), JSON.stringify(record))
    }),
  )
})

test('a text with any one bit flipped is refused', () => {
  const text = recordText({ version: 1, name: 'wéb', ports: [80, 443], nested: { on: true, off: null }, size: -1.5e3 })
  const bytes = Buffer.from(text, 'utf8')
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const flipped = Buffer.from(bytes)
    flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    assert.throws(() => parseRecordText(flipped.toString('utf8'), true), new RegExp(''), `bit ${bit}: ${flipped.toString('utf8')}`)
  }
})

test('a record of a time without checksums is taken as it is, unless it has to have one', () => {
  assert.deepEqual(parseRecordText('{"a": 1}'), { a: 1 })
  assert.throws(() => parseRecordText('{"a": 1}', true), /damaged/)
  for (const text of ['', '[]', 'null', '1', '{"a": 1']) assert.throws(() => parseRecordText(text))
})
