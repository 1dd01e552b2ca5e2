// What a secret file may be called and hold. No refusal repeats what is in it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { LONGEST_SECRET_FILE } from '../secret-files.ts'
import { secretFiles } from './secret-files.ts'

const isTaken = (files: unknown): boolean => secretFiles.safeParse(files).success

test('a name is a plain name of a file that is not hidden', () => {
  for (const name of ['tls.key', '_', '-', 'A', 'a'.repeat(64), 'a..b']) assert.ok(isTaken({ [name]: '' }), name)
  for (const name of ['', '.', '..', '.hidden', 'a/b', '../a', 'a b', 'ä', 'a\n', 'a\0', 'a'.repeat(65)])
    assert.equal(isTaken({ [name]: '' }), false, JSON.stringify(name))
})

test('a name that is taken never leads out of the directory', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom('.', '/', 'a', '\\', '\0', '\n', '~') }), (name) => {
      if (isTaken({ [name]: '' })) assert.match(name, /^[^./][^/]*$/)
    }),
  )
})

test('the text is Unicode, and its bytes count', () => {
  for (const text of ['', '\0', 'one\r\ntwo\\', 'x'.repeat(LONGEST_SECRET_FILE), '\u{1f511}'.repeat(LONGEST_SECRET_FILE / 4)])
    assert.ok(isTaken({ file: text }), text.slice(0, 10))
  for (const text of ['\ud800', 'x'.repeat(LONGEST_SECRET_FILE + 1), 'é'.repeat(LONGEST_SECRET_FILE / 2 + 1), 1, null])
    assert.equal(isTaken({ file: text }), false)
})

test('what is refused is not repeated', () => {
  for (const files of [
    { file: `hush${'x'.repeat(LONGEST_SECRET_FILE)}` },
    { file: 'hush\ud800' },
    { '.file': 'hush' },
    { file: ['hush'] },
    'hush',
  ])
    assert.doesNotMatch(JSON.stringify(secretFiles.safeParse(files).error?.issues ?? assert.fail()), /hush/)
})
