// What was sealed stays open through every replacement of the server's key, and only to who has it.

import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { pino } from 'pino'
import { openKeyRing } from './key-ring.ts'

const home = await mkdtemp(path.join(os.tmpdir(), 'hypeman-keys-'))
after(() => rm(home, { recursive: true }))
let made = 0
const freshFile = (): string => path.join(home, `ring-${(made += 1)}.json`)

const lines: string[] = []
const log = pino({}, { write: (line: string) => void lines.push(line) })
const [first, second, third] = ['the first key of all', 'the key after the first', 'a key that nobody used']

test('a ring is made once, for this user alone, and does not show its keys', async () => {
  const file = freshFile()
  const sealed = (await openKeyRing(file, [first], log)).seal('text', 'me')
  const before = await readFile(file, 'utf8')
  assert.equal((await stat(file)).mode & 0o777, 0o600)
  assert.equal((await openKeyRing(file, [first], log)).open(sealed, 'me'), 'text')
  assert.equal(await readFile(file, 'utf8'), before)
})

test('a replaced key opens all from before, alone from the next start on, and new text is sealed with a key that the old one never opened', async () => {
  const file = freshFile()
  const old = (await openKeyRing(file, [first], log)).seal('old', 'me')
  const kept = await readFile(file, 'utf8')
  const anew = (await openKeyRing(file, [second, first], log)).seal('new', 'me')
  const alone = await openKeyRing(file, [second], log)
  assert.deepEqual([alone.open(old, 'me'), alone.open(anew, 'me')], ['old', 'new'])
  assert.ok(lines.some((line) => line.includes('needed no more')))
  // Whoever has a copy of the ring, and the key of then, has what was sealed by then.
  await writeFile(`${file}.copy`, kept)
  const thief = await openKeyRing(`${file}.copy`, [first], log)
  assert.deepEqual([thief.open(old, 'me'), thief.open(anew, 'me')], ['old', undefined])
})

test('without a key that fits, what is there stays closed and is kept, new text can be sealed, and the right key opens both', async () => {
  const file = freshFile()
  const old = (await openKeyRing(file, [first], log)).seal('old', 'me')
  lines.length = 0
  const stranger = await openKeyRing(file, [third], log)
  const anew = stranger.seal('new', 'me')
  assert.equal(stranger.open(old, 'me'), undefined)
  assert.ok(lines.some((line) => line.includes('SECRETS__PREVIOUS_KEY')))
  assert.equal((await openKeyRing(file, [third], log)).open(anew, 'me'), 'new')
  const whole = await openKeyRing(file, [third, first], log)
  assert.deepEqual([whole.open(old, 'me'), whole.open(anew, 'me')], ['old', 'new'])
})

test('after any succession of keys, each start with the key before it, everything ever sealed is open', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.constantFrom(first, second, third), { minLength: 1, maxLength: 6 }), async (masters) => {
      const file = freshFile()
      const sealed = []
      for (const [index, master] of masters.entries()) {
        const before = masters[index - 1]
        const sealer = await openKeyRing(file, before === undefined ? [master] : [master, before], log)
        sealed.push(sealer.seal(`${index}`, 'me'))
        assert.deepEqual(
          sealed.map((one) => sealer.open(one, 'me')),
          sealed.map((_, at) => `${at}`),
        )
      }
    }),
    { numRuns: 20 },
  )
})

test('a damaged ring is named and left alone', async () => {
  const file = freshFile()
  await writeFile(file, '{"version":1,')
  await assert.rejects(openKeyRing(file, [first], log), /was cut off, damaged or edited.*put a good copy back/)
  assert.equal(await readFile(file, 'utf8'), '{"version":1,')
})
