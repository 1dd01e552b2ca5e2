import assert from 'node:assert/strict'
import { appendFile, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { LineSplitter, readLogs, type LogQuery } from './logs.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-logs-'))
after(() => rm(root, { recursive: true }))

async function instanceWith(lines: string): Promise<{ directory: string; file: string }> {
  const directory = await mkdtemp(path.join(root, 'i-'))
  await mkdir(path.join(directory, 'logs'))
  const file = path.join(directory, 'logs/app.log')
  await writeFile(file, lines)
  return { directory, file }
}

async function collect(directory: string, query: Partial<LogQuery>): Promise<string[]> {
  return Array.fromAsync(readLogs(directory, { source: 'app', tail: 100, follow: false, ...query }, new AbortController().signal))
}

test('the last lines are those asked for, also when the last has no line end', async () => {
  const { directory } = await instanceWith('one\ntwo\nthree')
  assert.deepEqual(await collect(directory, { tail: 2 }), ['two', 'three'])
  assert.deepEqual(await collect(directory, { tail: 0 }), [])
  assert.deepEqual(await collect(directory, {}), ['one', 'two', 'three'])
})

test('lines beyond one read are found from the end, empty lines count', async () => {
  const { directory } = await instanceWith(`${'x'.repeat(100)}\n`.repeat(5_000) + '\nlast\n')
  assert.deepEqual(await collect(directory, { tail: 3 }), ['x'.repeat(100), '', 'last'])
})

test('a log that does not exist yet is an error that says so', async () => {
  const { directory } = await instanceWith('')
  await assert.rejects(collect(directory, { source: 'vmm' }), (error) => isHypemanError(error, 'log_not_found'))
})

test('following yields what is appended, goes on after the log was cut off, and ends with its reader', async () => {
  const { directory, file } = await instanceWith('old\n')
  const reader = new AbortController()
  const lines = readLogs(directory, { source: 'app', tail: 1, follow: true }, reader.signal)
  assert.equal((await lines.next()).value, 'old')
  const next = lines.next()
  await appendFile(file, 'new\n')
  assert.equal((await next).value, 'new')
  const afterCut = lines.next()
  await truncate(file)
  await appendFile(file, 'x\n')
  assert.equal((await afterCut).value, 'x')
  const end = lines.next()
  reader.abort()
  assert.equal((await end).done, true)
})

test('characters that are cut between reads stay whole, and endless lines come in pieces', () => {
  const splitter = new LineSplitter()
  const euro = Buffer.from('€\n')
  assert.deepEqual([...splitter.push(euro.subarray(0, 1)), ...splitter.push(euro.subarray(1))], ['€'])
  const pieces = [...splitter.push(Buffer.alloc(200_000, 'a')), ...splitter.end()]
  assert.equal(pieces.join('').length, 200_000)
})
