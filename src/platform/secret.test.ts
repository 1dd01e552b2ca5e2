import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { readOrMakeSecret } from './secret.ts'

const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-secret-'))
after(() => rm(directory, { recursive: true }))

test('a key is made once, for this user alone, and is the same from then on', async () => {
  const file = path.join(directory, 'made')
  const secret = await readOrMakeSecret(file, 'JWT_SECRET')
  assert.match(secret, /^[0-9a-f]{64}$/)
  assert.equal((await stat(file)).mode & 0o777, 0o600)
  assert.equal(await readOrMakeSecret(file, 'JWT_SECRET'), secret)
})

test('a file that holds no key is refused, not replaced', async () => {
  const file = path.join(directory, 'short')
  await writeFile(file, 'x\n')
  await assert.rejects(readOrMakeSecret(file, 'JWT_SECRET'), /holds no usable key/)
})

test('a key whose making was cut off before it had its name is made anew', async () => {
  const file = path.join(directory, 'cut-off')
  await writeFile(`${file}.tmp`, '')
  const secret = await readOrMakeSecret(file, 'JWT_SECRET')
  assert.match(secret, /^[0-9a-f]{64}$/)
  assert.equal(await readOrMakeSecret(file, 'JWT_SECRET'), secret)
  assert.ok(!existsSync(`${file}.tmp`))
})
