import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { exchangePaths } from './exchange.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-exchange-'))
after(() => rm(root, { recursive: true }))

test('two directories change places, with all that is in them', async () => {
  for (const name of ['a', 'b']) {
    await mkdir(path.join(root, name))
    await writeFile(path.join(root, name, 'which'), name)
  }
  exchangePaths(path.join(root, 'a'), path.join(root, 'b'))
  assert.equal(await readFile(path.join(root, 'a', 'which'), 'utf8'), 'b')
  assert.equal(await readFile(path.join(root, 'b', 'which'), 'utf8'), 'a')
})

test('a missing side is an error that names both, and the other side stays', async () => {
  const here = path.join(root, 'a')
  assert.throws(
    () => exchangePaths(here, path.join(root, 'missing')),
    (error) => isHypemanError(error) && error.message.includes(here),
  )
  assert.ok(await readFile(path.join(here, 'which')))
})
