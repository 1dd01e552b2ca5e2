import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { listenToLog, startFailure } from './vmm-log.ts'

const root = mkdtempSync(path.join(os.tmpdir(), 'vmm-log-'))
after(() => rmSync(root, { recursive: true }))

test('what was said before is not told, and of what is said only the last lines', async () => {
  const file = path.join(root, 'log')
  writeFileSync(file, 'of an earlier process\n')
  const said = listenToLog(file)
  assert.deepEqual(await said(), [])
  appendFileSync(file, 'one\n\ntwo\nthree\nfour')
  assert.deepEqual(await said(), ['two', 'three', 'four'])
  assert.deepEqual(await said(1), ['four'])
  assert.deepEqual(await said(9), ['one', 'two', 'three', 'four'])
  appendFileSync(file, `\n${'x'.repeat(100_000)}\nlast`)
  assert.equal((await said()).at(-1), 'last')
})

test('a log that is not there, or was cut off meanwhile, says nothing', async () => {
  const file = path.join(root, 'none')
  const said = listenToLog(file)
  assert.deepEqual(await said(), [])
  writeFileSync(file, 'first\n')
  assert.deepEqual(await said(), ['first'])
  const later = listenToLog(file)
  writeFileSync(file, '')
  assert.deepEqual(await later(), [])
})

test('an error that says what to do stays as it is', () => {
  const conflict = new HypemanError('conflict', 'do this')
  assert.equal(startFailure(conflict, 'no start'), conflict)
  for (const error of [new Error('x'), new HypemanError('host_unavailable', 'y')]) {
    const failure = startFailure(error, 'no start')
    assert.ok(isHypemanError(failure, 'host_unavailable') && failure.message === 'no start' && failure.cause === error)
  }
})
