// Records of pushes on disk: in order, up to a number, and one that can't be read hides no other.

import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { dataLayout, type DataLayout } from '../files/layout.ts'
import { makeDataDirectories } from '../files/stage.ts'
import type { PushRecord } from './record.ts'
import { ENDED_KEPT, PushStore } from './store.ts'

const log = pino({ level: 'silent' })

async function dataDirectory(): Promise<AsyncDisposable & { readonly layout: DataLayout }> {
  const layout = dataLayout(await mkdtemp(path.join(os.tmpdir(), 'push-store-')))
  await makeDataDirectories(layout)
  return { layout, [Symbol.asyncDispose]: () => rm(layout.root, { recursive: true }) }
}

function record(number: number): PushRecord {
  return {
    version: 1,
    id: `push${number}`,
    image: 'docker.io/my/app:1',
    target: `registry.example.com/app:${number}`,
    digest: `sha256:${'0'.repeat(64)}`,
    insecure: false,
    borrowed: false,
    status: 'unfinished',
    createdAt: new Date(Date.UTC(2026, 0, 1) + number * 1_000).toISOString(),
    completedAt: null,
    layers: null,
    bytes: null,
    error: null,
  }
}

async function reloaded(layout: DataLayout): Promise<PushStore> {
  const store = new PushStore(layout, log)
  await store.load()
  return store
}

test('the pushes that ended last are kept, and all that have not ended', async () => {
  await using directory = await dataDirectory()
  const store = await reloaded(directory.layout)
  for (let number = 0; number < ENDED_KEPT + 5; number += 1) await store.add(record(number))
  for (let number = 1; number < ENDED_KEPT + 4; number += 1) {
    await store.end({ ...record(number), status: 'pushed', layers: 1, bytes: 2 })()
    await store.dropOld()
  }
  const numbers = [0, ...Array.from({ length: ENDED_KEPT }, (_, at) => at + 4), ENDED_KEPT + 4]
  for (const one of [store, await reloaded(directory.layout)])
    assert.deepEqual(
      one.list().map(({ id }) => id),
      numbers.map((number) => `push${number}`),
    )
})

test('a push that took longer than a hundred that came after it is not forgotten in the moment in which it ends', async () => {
  await using directory = await dataDirectory()
  const store = await reloaded(directory.layout)
  const at = (number: number): string => new Date(Date.UTC(2026, 0, 2) + number * 1_000).toISOString()
  for (let number = 0; number <= ENDED_KEPT; number += 1) await store.add(record(number))
  for (let number = 1; number <= ENDED_KEPT; number += 1)
    await store.end({ ...record(number), status: 'pushed', layers: 1, bytes: 2, completedAt: at(number) })()
  await store.end({ ...record(0), status: 'failed', error: 'late', completedAt: at(ENDED_KEPT + 1) })()
  await store.dropOld()
  assert.equal(store.byId('push0')?.error, 'late')
  assert.equal(store.byId('push1'), undefined)
})

test('a push that has ended is shown so even if that can not be written, and is unfinished for the next start', async () => {
  await using directory = await dataDirectory()
  const { layout } = directory
  const store = await reloaded(layout)
  await store.add(record(1))
  const write = store.end({ ...record(1), status: 'failed', error: 'no' })
  assert.equal(store.byId('push1')?.status, 'failed')
  await rm(layout.pushes, { recursive: true })
  await assert.rejects(write(), { code: 'ENOENT' })
  assert.equal(store.byId('push1')?.status, 'failed')
})

test('a record that can not be read is told, left alone, and hides no other', async () => {
  await using directory = await dataDirectory()
  const { layout } = directory
  await (await reloaded(layout)).add(record(1))
  await writeFile(layout.push('damaged'), '{"version":1,')
  await writeFile(layout.push('moved'), JSON.stringify(record(2)))
  await writeFile(`${layout.push('push3')}.0123456789ab.tmp`, 'half')
  const store = await reloaded(layout)
  assert.deepEqual(
    store.list().map(({ id }) => id),
    ['push1'],
  )
  assert.deepEqual(
    store
      .unreadable()
      .map(({ kind, id }) => `${kind} ${id}`)
      .toSorted(),
    ['push damaged', 'push moved'],
  )
  assert.deepEqual((await readdir(layout.pushes)).toSorted(), ['damaged.json', 'moved.json', 'push1.json'])
})
