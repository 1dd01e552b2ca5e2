// The index of snapshots: names per source, unique beginnings of ids, filters, broken records, and thousands of them.

import assert from 'node:assert/strict'
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { aRecord, testContext } from '../../tests/support/instance-context.ts'
import { aSnapshot } from '../../tests/support/records.ts'
import { isHypemanError } from '../api/errors.ts'
import { newId } from '../platform/ids.ts'
import type { SnapshotRecord } from './record.ts'
import { SnapshotStore } from './store.ts'

const log = pino({ level: 'silent' })

function snapshot(change: Partial<SnapshotRecord> = {}): SnapshotRecord {
  return aSnapshot({ kind: 'Standby', ...change })
}

async function storeOf(...records: readonly SnapshotRecord[]): Promise<SnapshotStore> {
  await using world = await testContext()
  const store = new SnapshotStore(world.context.layout, log)
  for (const record of records) store.add(record)
  return store
}

test('a name is unique among the snapshots of one instance, and free for others; the empty name is never taken', async () => {
  const store = await storeOf(snapshot({ id: 'first', sourceInstanceId: 'one', name: 'base' }))
  assert.throws(
    () => store.reserveName('one', 'base', 'next'),
    (error) => isHypemanError(error, 'conflict') && /first .* base/.test(error.message),
  )
  using _other = store.reserveName('two', 'base', 'next')
  for (const _ of [1, 2]) store.reserveName('one', '', newId())
})

test('of many who want one name at once, one gets it; one that fails gives it back', async () => {
  const store = await storeOf()
  const attempts = await Promise.allSettled(Array.from({ length: 20 }, async (_, index) => store.reserveName('one', 'base', `s${index}`)))
  const won = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : []))
  assert.equal(won.length, 1)
  won[0]?.[Symbol.dispose]()
  store.reserveName('one', 'base', 'later')[Symbol.dispose]()
})

test('a name stays taken when its reservation ends after the snapshot was added, and is free when that is gone', async () => {
  const store = await storeOf()
  const record = snapshot({ sourceInstanceId: 'one', name: 'base' })
  const reserved = store.reserveName('one', 'base', record.id)
  store.add(record)
  reserved[Symbol.dispose]()
  assert.throws(
    () => store.reserveName('one', 'base', 'next'),
    (error) => isHypemanError(error, 'conflict'),
  )
  store.forget(record)
  store.reserveName('one', 'base', 'next')[Symbol.dispose]()
})

test('a snapshot is found by its id or a beginning of it that no other has, never by name', async () => {
  const [one, other] = [snapshot({ id: 'aaaabbbb', name: 'base' }), snapshot({ id: 'aaaacccc' })]
  const store = await storeOf(one, other)
  assert.deepEqual([store.find('aaaabbbb'), store.find('aaaac')], [one, other])
  assert.throws(
    () => store.find('aaaa'),
    (error) => isHypemanError(error, 'ambiguous'),
  )
  for (const ref of ['base', '', 'zzz'])
    assert.throws(
      () => store.find(ref),
      (error) => isHypemanError(error, 'not_found'),
      ref,
    )
})

test('filters are for source, kind, name and tags, and all that are given must hold', async () => {
  const records = [
    snapshot({ id: 'a', sourceInstanceId: 'one', name: 'base', tags: { team: 'x', env: 'dev' } }),
    snapshot({ id: 'b', sourceInstanceId: 'one', kind: 'Stopped', tags: { team: 'x' } }),
    snapshot({ id: 'c', sourceInstanceId: 'two', name: 'base', tags: { team: 'y' } }),
  ]
  const store = await storeOf(...records)
  const listed = (filter: Parameters<SnapshotStore['list']>[0]): string =>
    store
      .list(filter)
      .map(({ id }) => id)
      .join('')
  assert.equal(listed({}), 'abc')
  assert.equal(listed({ sourceInstanceId: 'one' }), 'ab')
  assert.equal(listed({ kind: 'Stopped' }), 'b')
  assert.equal(listed({ name: 'base' }), 'ac')
  assert.equal(listed({ tags: { team: 'x' } }), 'ab')
  assert.equal(listed({ tags: { team: 'x', env: 'dev' } }), 'a')
  assert.equal(listed({ sourceInstanceId: 'two', kind: 'Stopped' }), '')
})

test('what is on disk is there again after a restart; a snapshot that can not be read is left alone and hides no other', async () => {
  await using world = await testContext()
  const { layout } = world.context
  const good = [snapshot({ name: 'base' }), snapshot({ kind: 'Stopped' })]
  const write = async (id: string, text: string): Promise<void> => {
    await mkdir(layout.snapshot(id))
    await writeFile(path.join(layout.snapshot(id), 'snapshot.json'), text)
  }
  for (const record of good) await write(record.id, JSON.stringify(record))
  await write('cut-off', JSON.stringify(good[0]).slice(0, 100))
  await write('misnamed', JSON.stringify(good[0]))
  await write('newer', JSON.stringify({ ...good[0], id: 'newer', version: 1_000 }))
  await mkdir(layout.snapshot('empty'))
  const store = new SnapshotStore(layout, log)
  await store.load()
  assert.deepEqual(new Set(store.list().map(({ id }) => id)), new Set(good.map(({ id }) => id)))
  const [base] = good
  assert.deepEqual(store.find(base?.id ?? ''), base)
  assert.throws(
    () => store.reserveName(base?.sourceInstanceId ?? '', 'base', 'next'),
    (error) => isHypemanError(error, 'conflict'),
  )
})

test('ten thousand snapshots are listed, filtered and found without a wait', async () => {
  const instance = aRecord()
  const records = Array.from({ length: 10_000 }, (_, index) =>
    snapshot({ instance, sourceInstanceId: `source-${index % 100}`, name: `s${index}`, tags: { batch: String(index % 10) } }),
  )
  const store = await storeOf(...records)
  const started = performance.now()
  assert.equal(store.list().length, 10_000)
  assert.equal(store.list({ sourceInstanceId: 'source-7' }).length, 100)
  assert.equal(store.list({ tags: { batch: '3' } }).length, 1_000)
  const last = records.at(-1)
  assert.equal(store.find(last?.id.slice(0, 20) ?? ''), last)
  assert.throws(
    () => store.reserveName('source-7', 's107', 'next'),
    (error) => isHypemanError(error, 'conflict'),
  )
  assert.ok(performance.now() - started < 1_000)
})

test('what the schedule of an instance took is known until it is gone; what others took is not among it', async () => {
  const source = { sourceInstanceId: 'one', name: 'base' }
  const [first, second] = [snapshot({ ...source, scheduled: true }), snapshot({ ...source, scheduled: true, name: '' })]
  const store = await storeOf(first, snapshot({ ...source, name: 'mine' }), second, snapshot({ sourceInstanceId: 'two', scheduled: true }))
  assert.deepEqual(store.scheduledOf('one'), [first, second])
  store.forget(first)
  assert.deepEqual(store.scheduledOf('one'), [second])
  store.forget(second)
  assert.deepEqual(store.scheduledOf('one'), [])
})
