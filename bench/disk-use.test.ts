// Bytes that a step takes on disk.

import assert from 'node:assert/strict'
import { appendFile, link, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { syncFile } from '../src/files/stage.ts'
import { diskUse, newBytes } from './disk-use.ts'

test('new files count as what they take; links to old ones, and old ones that grew, do not', async () => {
  const home = await mkdtemp(path.join(os.tmpdir(), 'bench-use-'))
  await using _home = { [Symbol.asyncDispose]: () => rm(home, { recursive: true }) }
  const [old, fresh] = [path.join(home, 'old'), path.join(home, 'below', 'fresh')]
  await writeFile(old, Buffer.alloc(65_536, 1))
  await mkdir(path.dirname(fresh))
  const before = await diskUse(home)
  await link(old, path.join(home, 'below', 'link'))
  await appendFile(old, Buffer.alloc(65_536, 1))
  await writeFile(fresh, Buffer.alloc(65_536, 1))
  // ext4 and XFS allocate when they write out.
  await syncFile(fresh)
  assert.equal(newBytes(before, await diskUse(home)), 65_536)
  assert.equal(newBytes(before, before), 0)
})
