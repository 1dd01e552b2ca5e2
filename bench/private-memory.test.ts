// Guest memory that a VMM has for itself, from what the kernel tells of its mappings.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { mapPrivately } from '../tests/support/private-mapping.ts'
import { privateBytesOf, privateMib } from './private-memory.ts'

const smaps = `7f0000000000-7f0010000000 rw-p 00000000 fe:00 42                         /data/instances/a/memory-0.base
Rss:              100000 kB
Private_Dirty:      2048 kB
Anonymous:          2048 kB
Swap:                  8 kB
SwapPss:               8 kB
7f0010000000-7f0020000000 rw-p 10000000 fe:00 42                         /data/snapshots/b/memory-12.base (deleted)
Anonymous:            16 kB
7f0020000000-7f0020100000 rw-p 00000000 00:00 0 
Anonymous:          9999 kB
Swap:               9999 kB
`

test('all parts of the base count with what was swapped out, other mappings do not', () => {
  assert.equal(privateBytesOf(smaps), (2048 + 8 + 16) * 1024)
})

test('a process without guest memory is an error, not zero', () => {
  assert.throws(() => privateBytesOf('7f00-7f10 rw-p 00000000 00:00 0 \nAnonymous: 4 kB\n'), /maps no guest memory/)
})

test('what a process writes into a private mapping is counted, what it reads is not', async () => {
  const home = await mkdtemp(path.join(os.tmpdir(), 'bench-private-'))
  await using _home = { [Symbol.asyncDispose]: () => rm(home, { recursive: true }) }
  const file = path.join(home, 'memory-0.base')
  await writeFile(file, randomBytes(4 * 1024 ** 2))
  using mapping = mapPrivately(file, 4 * 1024 ** 2)
  assert.notEqual(mapping.bytes[3 * 1024 ** 2], undefined)
  mapping.bytes.fill(7, 0, 1024 ** 2)
  assert.equal(await privateMib(process.pid), 1)
})
