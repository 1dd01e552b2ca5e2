// Flows end when their function does: each is held with `using`, or its end would never be told to metrics and traces.

import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'

const root = path.join(import.meta.dirname, '../..')
const beginning = /\b(?:flowOn|snapshotFlow|loggedFlow|openFlow|this\.#push)\(/
/** A declaration that holds it, a function that hands it on, or the beginning's own definition. */
const held = /\busing \w+ = |^\s*return |^\s*(?:export )?function |^\s*#push\(/

test('every flow in src is held with using', async () => {
  const files = globSync('src/**/*.ts', { cwd: root }).filter((file) => !file.endsWith('.test.ts'))
  const lines = (
    await Promise.all(
      files.map(async (file) => (await readFile(path.join(root, file), 'utf8')).split('\n').map((line) => ({ file, line }))),
    )
  ).flat()
  const beginnings = lines.filter(({ line }) => beginning.test(line))
  assert.ok(beginnings.length > 20)
  assert.deepEqual(
    beginnings.filter(({ line }) => !held.test(line)),
    [],
  )
})
