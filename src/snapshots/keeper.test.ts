// Digests of snapshots after they were taken: shared files are read once, also across restarts; deleting does not wait; what changed in between is not blessed.

import assert from 'node:assert/strict'
import { appendFile, link, mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { aDriver, aRecord, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { isHypemanError } from '../api/errors.ts'
import { Digests, type ReadOptions } from '../files/digests.ts'
import { createStaged, stageRecord } from '../files/stage.ts'
import { KeyedLock } from '../platform/keyed-lock.ts'
import { newId } from '../platform/ids.ts'
import { checkSnapshot } from './check.ts'
import { Compressor } from './compressor.ts'
import type { SnapshotContext } from './context.ts'
import { SealKeeper } from './keeper.ts'
import type { SnapshotRecord } from './record.ts'
import { removeSnapshot } from './remove.ts'
import { readSeals, sealSnapshot } from './seals.ts'
import { SnapshotStore } from './store.ts'

const driver = aDriver('qemu', { partOf: (file) => (file === 'device.state' ? 'state' : file.startsWith('memory') ? 'memory' : 'disk') })

/** Counts what is read, by file name. */
class CountedDigests extends Digests {
  readonly reads: string[] = []

  override read(file: string, options: ReadOptions): ReturnType<Digests['read']> {
    this.reads.push(path.basename(file))
    return super.read(file, options)
  }
}

interface World extends AsyncDisposable {
  readonly snapshots: SnapshotContext
  readonly digests: CountedDigests
  /** Takes a snapshot whose memory is a link to the file. */
  take(memory: string): Promise<SnapshotRecord>
  /** The same data directory, seen by a new server. */
  restart(): Promise<World>
  readonly root: string
}

async function world(before?: TestContext): Promise<World> {
  const digests = new CountedDigests()
  const base = before ?? (await testContext())
  const instances = { ...base.context, digests, drivers: new Map([['qemu' as const, driver]]) }
  const store = new SnapshotStore(instances.layout, instances.log)
  await store.load()
  const keeper = new SealKeeper(instances, store)
  const host = { instances, store, locks: new KeyedLock(), keeper }
  const compressor = new Compressor(host, { keepMs: 0, lookEveryMs: 50 })
  const snapshots = { ...host, compressor }
  const close = async (): Promise<void> => {
    await compressor[Symbol.asyncDispose]()
    await keeper[Symbol.asyncDispose]()
    await digests[Symbol.asyncDispose]()
  }
  return {
    snapshots,
    digests,
    root: instances.layout.root,
    async take(memory) {
      const id = newId()
      await using staged = await createStaged(instances.layout, id)
      await mkdir(path.join(staged.path, 'guest'))
      await link(memory, path.join(staged.path, 'guest', 'memory.base'))
      await writeFile(path.join(staged.path, 'guest', 'device.state'), `state of ${id}`)
      const record = recordOf(id)
      await stageRecord(path.join(staged.path, 'snapshot.json'), record)
      const seals = await sealSnapshot(staged.path, id, driver, digests)
      await staged.commit(instances.layout.snapshot(id))
      store.add(record)
      keeper.add(id, seals)
      return record
    },
    async restart() {
      await close()
      return world(base)
    },
    async [Symbol.asyncDispose]() {
      await close()
      await base[Symbol.asyncDispose]()
    },
  }
}

function recordOf(id: string): SnapshotRecord {
  const instance = { ...aRecord(), hypervisor: 'qemu' as const }
  const source = { sourceInstanceId: instance.id, sourceInstanceName: instance.name, sourceHypervisor: instance.hypervisor }
  const sizes = { sizeBytes: 0, allocatedBytes: 0, pausedMs: 0 }
  return {
    version: 3,
    id,
    name: '',
    kind: 'Standby',
    tags: {},
    owner: null,
    scheduled: false,
    ...source,
    createdAt: new Date().toISOString(),
    ...sizes,
    instance,
  }
}

async function memoryFile(root: string, mebibytes: number): Promise<string> {
  const file = path.join(root, `memory-${newId()}`)
  await writeFile(file, Buffer.alloc(mebibytes * 1024 ** 2, 7))
  return file
}

const missing = ({ snapshots }: World, { id }: SnapshotRecord): string[] =>
  readSeals(snapshots.instances.layout.snapshot(id), id).flatMap(({ name, digest }) => (digest === null ? [name] : []))

test('fifty snapshots that share a file, taken at once, cause one reading of it; taken later, or by a later server, none', async () => {
  await using first = await world()
  const memory = await memoryFile(first.root, 8)
  const taken = await Promise.all(Array.from({ length: 50 }, () => first.take(memory)))
  assert.ok(
    taken.some((record) => missing(first, record).includes('guest/memory.base')),
    'taking a snapshot does not wait for digests',
  )
  await until('all have digests', () => taken.every((record) => missing(first, record).length === 0))
  assert.deepEqual(first.digests.reads, ['memory.base'])
  assert.deepEqual(missing(first, await first.take(memory)), [])

  const later = await first.restart()
  await later.snapshots.keeper.resume()
  assert.deepEqual(missing(later, await later.take(memory)), [])
  for (const record of taken) await checkSnapshot(later.snapshots, record, true)
  assert.deepEqual(later.digests.reads, [])
  await later.restart().then(async (last) => {
    await last.snapshots.keeper[Symbol.asyncDispose]()
    await last.digests[Symbol.asyncDispose]()
  })
})

test('a server that was stopped before the digests were taken leaves them to the next one', async () => {
  await using first = await world()
  const record = await first.take(await memoryFile(first.root, 200))
  const later = await first.restart()
  assert.deepEqual(missing(later, record), ['guest/memory.base'])
  await later.snapshots.keeper.resume()
  await until('the digests are there', () => missing(later, record).length === 0)
  await later.snapshots.keeper[Symbol.asyncDispose]()
  await later.digests[Symbol.asyncDispose]()
})

test('a snapshot is deleted without waiting until its files were read', async () => {
  await using here = await world()
  const memory = await memoryFile(here.root, 200)
  const [record, other] = [await here.take(memory), await here.take(await memoryFile(here.root, 1))]
  await until('the file is being read', () => here.digests.reads.length > 0)
  await removeSnapshot(here.snapshots, record)
  await until('the next one is done', () => missing(here, other).length === 0)
  assert.equal(here.digests.reads.filter((name) => name === 'memory.base').length, 2)
  await assert.rejects(readFile(here.snapshots.instances.layout.snapshot(record.id)), { code: 'ENOENT' })
})

test('a file that was written to before its digest was taken gets none, and is refused', async () => {
  await using first = await world()
  const memory = await memoryFile(first.root, 64)
  const record = await first.take(memory)
  const later = await first.restart()
  await appendFile(memory, 'x')
  await truncate(memory, 64 * 1024 ** 2)
  await later.snapshots.keeper.resume()
  await assert.rejects(
    checkSnapshot(later.snapshots, record, true),
    (error) => isHypemanError(error, 'corrupt_snapshot') && /written to before/.test(error.message),
  )
  assert.deepEqual(missing(later, record), ['guest/memory.base'])
  assert.deepEqual(later.digests.reads, [])
  // Its disks alone are another matter.
  await checkSnapshot(later.snapshots, record, false)
  await later.snapshots.keeper[Symbol.asyncDispose]()
  await later.digests[Symbol.asyncDispose]()
})

test('a file that was touched proves its contents once, for all who share it and ask at the same time', async () => {
  await using here = await world()
  const memory = await memoryFile(here.root, 8)
  const taken = await Promise.all([1, 2, 3].map(() => here.take(memory)))
  await until('all have digests', () => taken.every((record) => missing(here, record).length === 0))
  await appendFile(memory, 'x')
  await truncate(memory, 8 * 1024 ** 2)
  await Promise.all(taken.flatMap((record) => [checkSnapshot(here.snapshots, record, true), checkSnapshot(here.snapshots, record, true)]))
  assert.equal(here.digests.reads.length, 2)
  const later = await here.restart()
  for (const record of taken) await checkSnapshot(later.snapshots, record, true)
  assert.deepEqual(later.digests.reads, [])
  await later.snapshots.keeper[Symbol.asyncDispose]()
  await later.digests[Symbol.asyncDispose]()
  await rm(memory)
})
