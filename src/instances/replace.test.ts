// Replacing an instance's directory: what is on disk before the swap.

import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { testContext } from '../../tests/support/instance-context.ts'
import { watchSyncs } from '../../tests/support/syncs.ts'
import { flowOn } from './context.ts'
import { replaceInstance } from './replace.ts'
import { readInstanceRecord } from './store.ts'

test('the way to the old directory is on disk before the new one takes its place', async (t) => {
  await using world = await testContext()
  const { context } = world
  const entry = await world.add()
  await mkdir(path.join(context.layout.instance(entry.id), 'logs'))
  const seen: { readonly staged: number; readonly swapped: boolean }[] = []
  await watchSyncs(t, async (file) => {
    if (file !== context.layout.staging) return
    const { restoring } = await readInstanceRecord(context.layout.instance(entry.id))
    seen.push({ staged: (await readdir(file)).length, swapped: restoring !== null })
  })
  await replaceInstance(context, entry, flowOn(context, entry.id, 'snapshot.restore'), {
    fill: async () => entry.record,
    holdsMemory: false,
    reach: async () => undefined,
  })
  assert.deepEqual(seen[0], { staged: 1, swapped: false })
})

test('a restore that can not be confirmed, though the word of it is on disk already, brings the old directory back', async () => {
  await using world = await testContext()
  const { context } = world
  const entry = await world.add()
  const { record } = entry
  const place = context.layout.instance(entry.id)
  await mkdir(path.join(place, 'logs'))
  await writeFile(path.join(place, 'disk'), 'old')
  const update = context.store.update.bind(context.store)
  context.store.update = async (one, change) => {
    await update(one, change)
    throw new Error('the disk fails')
  }
  const restored = replaceInstance(context, entry, flowOn(context, entry.id, 'snapshot.restore'), {
    async fill(directory) {
      await writeFile(path.join(directory, 'disk'), 'new')
      return { ...record, tags: { from: 'a snapshot' } }
    },
    holdsMemory: true,
    reach: async () => undefined,
  })
  await assert.rejects(restored, /the disk fails/)
  assert.equal(await readFile(path.join(place, 'disk'), 'utf8'), 'old')
  assert.deepEqual([entry.record, entry.holdsMemory, (await readInstanceRecord(place)).tags], [record, false, {}])
  assert.deepEqual(await readdir(context.layout.staging), [])
})
