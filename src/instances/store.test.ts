// The index of instances: who is meant by a word, who owns a name, what is on disk after each change, and what a broken record does to the others.

import assert from 'node:assert/strict'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { aRecord, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { isHypemanError } from '../api/errors.ts'
import { instanceFormat } from './record.ts'
import { readInstanceRecord, InstanceStore } from './store.ts'

const ids = ['aaaabbbbccccddddeeeeffff', 'aaaazzzzccccddddeeeeffff', 'mmmmbbbbccccddddeeeeffff'] as const

async function three(): Promise<TestContext> {
  const world = await testContext()
  for (const [index, id] of ids.entries()) await world.add({ id, name: `vm-${index}` })
  return world
}

test('an instance is found by id, by name, and by a beginning of its id that no other has', async () => {
  await using world = await three()
  const { store } = world.context
  for (const ref of [ids[1], 'vm-1', 'aaaaz']) assert.equal(store.find(ref).id, ids[1], ref)
})

test('a beginning that several ids share is ambiguous; one that none has is not there; the empty word is nobody', async () => {
  await using world = await three()
  const { store } = world.context
  assert.throws(
    () => store.find('aaaa'),
    (error) => isHypemanError(error, 'ambiguous') && /^2 instances .*"aaaa"/.test(error.message),
  )
  for (const ref of ['zzzz', '', 'VM-1', `${ids[0]}x`])
    assert.throws(
      () => store.find(ref),
      (error) => isHypemanError(error, 'not_found'),
      ref,
    )
})

test('an exact name counts before a beginning of another id, and an exact id before a name', async () => {
  await using world = await three()
  const named = await world.add({ name: 'aaaab' })
  assert.equal(world.context.store.find('aaaab'), named)
  await world.add({ name: ids[2] })
  assert.equal(world.context.store.find(ids[2]).id, ids[2])
})

test('of many who want one name at once, one gets it; when that gives up, the next does', async () => {
  await using world = await three()
  const { store } = world.context
  const attempts = await Promise.allSettled(ids.map(async (id) => store.reserveName('wanted', `new-${id}`)))
  const won = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : []))
  const lost = attempts.flatMap((attempt) => (attempt.status === 'rejected' ? [attempt.reason as unknown] : []))
  assert.equal(won.length, 1)
  assert.ok(lost.every((error) => isHypemanError(error, 'name_conflict')))
  won[0]?.[Symbol.dispose]()
  store.reserveName('wanted', 'later')[Symbol.dispose]()
})

test('a name stays taken when its reservation ends after the instance was added, and is free when that is forgotten', async () => {
  await using world = await testContext()
  const { store } = world.context
  const record = { ...aRecord(), name: 'kept' }
  const reserved = store.reserveName('kept', record.id)
  const entry = await world.add(record)
  reserved[Symbol.dispose]()
  assert.throws(
    () => store.reserveName('kept', 'other'),
    (error) => isHypemanError(error, 'name_conflict') && error.message.includes(record.id),
  )
  store.forget(entry)
  store.reserveName('kept', 'other')[Symbol.dispose]()
})

test('changes of one instance are made in the order of the calls, each of them whole and on disk', async () => {
  await using world = await testContext()
  const { store, layout } = world.context
  const entry = await world.add()
  await Promise.all([
    store.update(entry, { tags: { step: '1' }, generation: 1 }),
    store.update(entry, { tags: { step: '2' } }),
    store.update(entry, { generation: 3 }),
  ])
  assert.deepEqual([entry.record.tags, entry.record.generation], [{ step: '2' }, 3])
  assert.deepEqual(await readInstanceRecord(layout.instance(entry.id)), entry.record)
})

test('a change that can not be written is not shown, and does not keep the next from being made', async () => {
  await using world = await testContext()
  const { store, layout } = world.context
  const entry = await world.add()
  const before = entry.record
  const file = path.join(layout.instance(entry.id), 'record.json')
  const cyclic: Record<string, string> = {}
  Object.assign(cyclic, { self: cyclic })
  const text = await readFile(file, 'utf8')
  await assert.rejects(store.update(entry, { tags: cyclic }))
  assert.equal(entry.record, before)
  assert.equal(await readFile(file, 'utf8'), text)
  await store.update(entry, { generation: 7 })
  assert.equal((await readInstanceRecord(layout.instance(entry.id))).generation, 7)
})

const damages: Readonly<Record<string, readonly [text: string | null, reason: RegExp]>> = {
  'is missing': [null, /record\.json is missing/],
  'is empty': ['', /record\.json is empty/],
  'is cut off': ['{"version": 1, "id": "', /record\.json was cut off, damaged or edited \(.*JSON/],
  'is of a newer version': [
    JSON.stringify({ ...aRecord(), version: instanceFormat.version + 1 }),
    new RegExp(
      `record\\.json has version ${instanceFormat.version + 1}, .* up to version ${instanceFormat.version}: run the version that wrote it`,
    ),
  ],
  'lacks a field': [JSON.stringify({ ...aRecord(), machineId: undefined }), /machineId: .*expected string/],
  'has text for a number': [JSON.stringify({ ...aRecord(), vcpus: 'two' }), /vcpus: .*expected int|vcpus: .*expected number/],
  'has a time that is none': [JSON.stringify({ ...aRecord(), createdAt: 'yesterday' }), /createdAt/],
  'names a kernel outside of the data directory': [JSON.stringify({ ...aRecord(), kernelId: '../../boot' }), /kernelId: not a plain name/],
  'would add words to the command line of the VMM': [
    JSON.stringify({ ...aRecord(), network: { kind: 'user', mac: '52:54:00:00:00:01,x=y', ports: [] } }),
    /network\.mac: not a MAC address/,
  ],
  'is of another instance': [JSON.stringify(aRecord()), /holds the record of the instance/],
}
for (const [damage, [text, reason]] of Object.entries(damages))
  test(`a record that ${damage} is reported and left alone, and the others are there`, async () => {
    await using world = await three()
    const { layout, log } = world.context
    const directory = layout.instance('broken')
    await mkdir(directory)
    if (text !== null) await writeFile(path.join(directory, 'record.json'), text)
    const store = new InstanceStore(layout, log)
    await store.load(async (record) => record.name === 'vm-2')
    assert.deepEqual([...store.entries()].map(({ record }) => record.name).toSorted(), ['vm-0', 'vm-1', 'vm-2'])
    assert.deepEqual(
      store.unreadable().map(({ kind, id, path: at }) => [kind, id, at]),
      [['instance', 'broken', directory]],
    )
    assert.match(store.unreadable()[0]?.reason ?? '', reason)
    assert.deepEqual([store.find('vm-1').holdsMemory, store.find('vm-2').holdsMemory], [false, true])
  })
