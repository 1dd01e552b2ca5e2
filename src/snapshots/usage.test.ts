// What snapshots take on disk when they share files, whatever comes and goes between two looks.

import assert from 'node:assert/strict'
import { link, mkdir, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { testContext } from '../../tests/support/instance-context.ts'
import { aSnapshot } from '../../tests/support/records.ts'
import { snapshotFiles, type DataLayout } from '../files/layout.ts'
import { SnapshotStore } from './store.ts'
import { SnapshotUsage } from './usage.ts'

const signal = new AbortController().signal

/** A snapshot with a file of its own and links to the shared files given by name. */
async function putSnapshot(layout: DataLayout, store: SnapshotStore, id: string, ownKib: number, shared: readonly string[]): Promise<void> {
  const payload = path.join(layout.snapshot(id), snapshotFiles.payload)
  await mkdir(payload, { recursive: true })
  await writeFile(path.join(payload, 'own'), Buffer.alloc(ownKib * 1024, 1))
  for (const name of shared) await link(path.join(layout.root, name), path.join(payload, name))
  store.add(aSnapshot({ id }))
}

async function bytesOf(...files: readonly string[]): Promise<number> {
  let sum = 0
  for (const file of files) sum += (await stat(file)).blocks * 512
  return sum
}

test('a file counts once however many snapshots name it, and until the last of them is gone', async () => {
  const shared = ['memory', 'disk']
  const action = fc.oneof(
    fc.record({ kind: fc.constant('add' as const), ownKib: fc.integer({ min: 0, max: 40 }), shared: fc.subarray(shared) }),
    fc.record({ kind: fc.constant('remove' as const), index: fc.nat() }),
    fc.record({ kind: fc.constant('look' as const) }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(action, { maxLength: 15 }), async (actions) => {
      await using world = await testContext()
      const { layout, log } = world.context
      const store = new SnapshotStore(layout, log)
      const usage = new SnapshotUsage(layout, store)
      for (const name of shared) await writeFile(path.join(layout.root, name), Buffer.alloc(100_000, 1))
      const present = new Map<string, readonly string[]>()
      for (const [index, one] of actions.entries()) {
        if (one.kind === 'look') await usage.refresh(signal)
        if (one.kind === 'add') {
          await putSnapshot(layout, store, `s${index}`, one.ownKib, one.shared)
          present.set(`s${index}`, one.shared)
        }
        const leaving = one.kind === 'remove' ? [...present.keys()][one.index % Math.max(present.size, 1)] : undefined
        if (leaving === undefined) continue
        await rm(layout.snapshot(leaving), { recursive: true })
        store.forget(store.find(leaving))
        present.delete(leaving)
      }
      await usage.refresh(signal)
      const own = [...present.keys()].map((id) => path.join(layout.snapshot(id), snapshotFiles.payload, 'own'))
      const used = shared.filter((name) => [...present.values()].some((names) => names.includes(name)))
      const expected = await bytesOf(...own, ...used.map((name) => path.join(layout.root, name)))
      assert.deepEqual(usage.totals(), { physicalBytes: expected, measured: present.size })
    }),
    { numRuns: 30 },
  )
})

test('a snapshot is looked at once, and one whose payload is missing takes nothing', async () => {
  await using world = await testContext()
  const { layout, log } = world.context
  const store = new SnapshotStore(layout, log)
  const usage = new SnapshotUsage(layout, store)
  await putSnapshot(layout, store, 'whole', 8, [])
  store.add(aSnapshot({ id: 'lost' }))
  await usage.refresh(signal)
  const before = usage.totals()
  assert.equal(before.measured, 2)
  await writeFile(path.join(layout.snapshot('whole'), snapshotFiles.payload, 'late'), Buffer.alloc(100_000))
  await usage.refresh(signal)
  assert.deepEqual(usage.totals(), before)
})

test('a look ends when it is told to', async () => {
  await using world = await testContext()
  const store = new SnapshotStore(world.context.layout, world.context.log)
  store.add(aSnapshot())
  await assert.rejects(new SnapshotUsage(world.context.layout, store).refresh(AbortSignal.abort(new Error('enough'))), /enough/)
})
