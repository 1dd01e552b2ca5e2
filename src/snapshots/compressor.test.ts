// Compressed snapshots against everything that may come in between: forks, deletions, verifications, restarts, damage, and others who share the memory.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { appendFile, copyFile, mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { compressionWorld, type CompressionWorld } from '../../tests/support/compression-world.ts'
import { until } from '../../tests/support/until.ts'
import type { VerifyEvent } from '../api/schemas/verification.ts'
import { isHypemanError } from '../api/errors.ts'
import type { FaultPlan } from '../platform/flow.ts'
import { seeFile } from '../files/identity.ts'
import { checkSnapshot } from './check.ts'
import { freeMemory } from './compress.ts'
import { readCompression } from './compression-record.ts'
import { holdSnapshot } from './context.ts'
import type { SnapshotRecord } from './record.ts'
import { removeSnapshot } from './remove.ts'
import { SnapshotUsage } from './usage.ts'
import { verifySnapshot } from './verify.ts'

const memory = Buffer.concat([Buffer.alloc(400_000, 'page'), Buffer.alloc(400_000), Buffer.alloc(400_000, 'other')])
const raw = ['guest/memory-1.base']
const zst = ['compressed/memory-1.base.zst']

const fileOf = ({ snapshots }: CompressionWorld, { id }: SnapshotRecord, name: string): string =>
  path.join(snapshots.instances.layout.snapshot(id), name)

/** Holds a step of compressing back until it is opened; after that nothing. */
function gate(stepId: string): FaultPlan & { readonly reached: Promise<void>; open(): void } {
  const [reached, opened] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  return {
    reached: reached.promise,
    open: () => opened.resolve(),
    before: async (id) => {
      if (id !== stepId) return
      reached.resolve()
      await opened.promise
    },
    after: () => undefined,
  }
}

async function makeReady(world: CompressionWorld, snapshot: SnapshotRecord): Promise<void> {
  using _hold = await holdSnapshot(world.snapshots, snapshot, true)
  using flow = world.flow(snapshot)
  await world.snapshots.compressor.makeReady(snapshot, flow)
  await checkSnapshot(world.snapshots, snapshot, true)
}

async function verify(world: CompressionWorld, snapshot: SnapshotRecord): Promise<VerifyEvent | undefined> {
  let last
  for await (const event of verifySnapshot(world.snapshots, snapshot.id, new AbortController().signal)) last = event
  return last
}

const isCompressedAlone = (world: CompressionWorld, snapshot: SnapshotRecord, names = zst): Promise<void> =>
  until('only the compressed file is there', async () => {
    const found = await world.memoryOf(snapshot)
    return found.length === names.length && found.every((name, index) => name === names[index])
  })

for (const [algorithm, suffix] of [
  ['zstd', '.zst'],
  ['lz4', '.lz4'],
] as const)
  test(`memory compressed by ${algorithm} takes less, comes back as it was for whoever needs it, and goes again without being compressed anew`, async () => {
    await using world = await compressionWorld(undefined, 50)
    const { compressor, store, instances } = world.snapshots
    const snapshot = await world.take({ 'memory-1.base': memory, 'memory-1.diff': memory }, { algorithm, level: 3 })
    const usage = new SnapshotUsage(instances.layout, store)
    await usage.refresh(new AbortController().signal)
    const before = usage.totals().physicalBytes
    const names = [`compressed/memory-1.base${suffix}`, `compressed/memory-1.diff${suffix}`]
    await isCompressedAlone(world, snapshot, names)
    await world.untilState(snapshot, 'compressed')
    await usage.refresh(new AbortController().signal)
    assert.ok(usage.totals().physicalBytes < before / 2, 'what all take is looked at again')
    const status = compressor.statusOf(snapshot.id)
    assert.deepEqual(world.sealedMemoryOf(snapshot), names)
    assert.equal(status?.uncompressedBytes, 2 * memory.length)
    assert.ok(status.compressedBytes < memory.length / 10)
    assert.equal(status.sizeChange, status.compressedBytes - 2 * memory.length)
    const { mtimeMs } = await stat(fileOf(world, snapshot, names[0] ?? ''))

    await Promise.all([1, 2, 3].map(() => makeReady(world, snapshot)))
    assert.ok((await readFile(fileOf(world, snapshot, 'guest/memory-1.base'))).equals(memory))
    assert.deepEqual(await world.staged(), [])
    assert.match(compressor.statusOf(snapshot.id)?.note ?? '', /there uncompressed as well/)
    assert.equal((await verify(world, snapshot))?.type, 'result')
    await isCompressedAlone(world, snapshot, names)
    assert.equal((await stat(fileOf(world, snapshot, names[0] ?? ''))).mtimeMs, mtimeMs)
  })

test('memory that something else names stays as it is, says so, and is compressed when nothing else does', async () => {
  await using world = await compressionWorld()
  const fork = path.join(world.snapshots.instances.layout.root, 'fork')
  await mkdir(fork)
  const snapshot = await world.take({ 'memory-1.base': memory }, undefined, fork)
  await world.untilState(snapshot, 'none')
  assert.match(world.snapshots.compressor.statusOf(snapshot.id)?.note ?? '', /memory-1\.base: shared with 1 other place/)
  assert.deepEqual(await world.memoryOf(snapshot), raw)
  await rm(fork, { recursive: true })
  world.snapshots.compressor.look()
  await isCompressedAlone(world, snapshot)
})

test('snapshots that share their memory with each other alone are compressed together, once for all of them, and give it up together', async () => {
  await using world = await compressionWorld()
  const { layout } = world.snapshots.instances
  const source = path.join(layout.root, 'source')
  await mkdir(source)
  const first = await world.take({ 'memory-1.base': memory }, undefined, source)
  const others = [
    await world.takeSharing(first),
    await world.takeSharing(first),
    await world.takeSharing(first, { algorithm: 'lz4', level: 1 }),
  ]
  await world.untilState(first, 'none')
  await rm(source, { recursive: true })
  for (const one of [first, ...others.slice(0, 2)]) await isCompressedAlone(world, one)
  await isCompressedAlone(world, others[2] ?? first, ['compressed/memory-1.base.lz4'])
  const inodes = await Promise.all([first, ...others.slice(0, 2)].map(async (one) => (await stat(fileOf(world, one, zst[0] ?? ''))).ino))
  assert.equal(new Set(inodes).size, 1, 'one compressed file for all that are compressed alike')
  await removeSnapshot(world.snapshots, first)
  for (const one of others) {
    await makeReady(world, one)
    assert.ok((await readFile(fileOf(world, one, raw[0] ?? ''))).equals(memory))
  }
})

test('a fork that begins while memory is compressed finds it there, and it goes only when the fork is done with the snapshot', async () => {
  const held = gate('snapshot.compress/commit')
  await using world = await compressionWorld(held)
  const snapshot = await world.take({ 'memory-1.base': memory })
  await held.reached
  const hold = await holdSnapshot(world.snapshots, snapshot, true)
  using flow = world.flow(snapshot)
  await world.snapshots.compressor.makeReady(snapshot, flow)
  held.open()
  await world.untilState(snapshot, 'compressed')
  await checkSnapshot(world.snapshots, snapshot, true)
  assert.deepEqual(await world.memoryOf(snapshot), [...zst, ...raw].toSorted())
  assert.ok((await readFile(fileOf(world, snapshot, raw[0] ?? ''))).equals(memory))
  hold[Symbol.dispose]()
  await isCompressedAlone(world, snapshot)
})

for (const stepName of ['compress', 'compare', 'seal', 'commit', 'free'])
  test(`a snapshot is deleted while it is compressed (${stepName}), without waiting for the end, and nothing is left`, async () => {
    const held = gate(`snapshot.compress/${stepName}`)
    await using world = await compressionWorld(held)
    const snapshot = await world.take({ 'memory-1.base': memory })
    await held.reached
    const removed = removeSnapshot(world.snapshots, snapshot)
    held.open()
    await removed
    assert.deepEqual(await world.staged(), [])
    await assert.rejects(stat(fileOf(world, snapshot, '')), { code: 'ENOENT' })
    assert.equal(world.snapshots.compressor.statusOf(snapshot.id), undefined)
  })

test('memory that is being verified is left where it is until that is over, and the verification finds nothing amiss', async () => {
  const held = gate('snapshot.compress/free')
  await using world = await compressionWorld(held)
  const snapshot = await world.take({ 'memory-1.base': memory, 'memory-1.diff': memory })
  await held.reached
  const verification = verifySnapshot(world.snapshots, snapshot.id, new AbortController().signal)
  const first = await verification.next()
  assert.equal(first.done, false)
  held.open()
  // The seals leave it out by then, the verification has read them before.
  await until('it is not sealed any more', () => !world.sealedMemoryOf(snapshot).includes('guest/memory-1.base'))
  assert.ok((await world.memoryOf(snapshot)).includes('guest/memory-1.base'))
  const other = await verify(world, snapshot)
  assert.equal(other?.type === 'result' && other.status, 'ok', 'one that begins now takes it for nothing foreign')
  let last: VerifyEvent | undefined
  for await (const event of verification) last = event
  assert.equal(last?.type === 'result' && last.status, 'ok')
  world.snapshots.compressor.look()
  await isCompressedAlone(world, snapshot, ['compressed/memory-1.base.zst', 'compressed/memory-1.diff.zst'])
  const again = await verify(world, snapshot)
  assert.equal(again?.type === 'result' && again.status, 'ok')
})

test('a server that was stopped in the middle leaves it to the next one, and nothing half made', async () => {
  const held = gate('snapshot.compress/compare')
  await using first = await compressionWorld(held)
  const snapshot = await first.take({ 'memory-1.base': memory })
  await held.reached
  held.open()
  const later = await first.restart(async () => {
    assert.deepEqual(await first.staged(), [])
    assert.deepEqual(await first.memoryOf(snapshot), raw)
  })
  await isCompressedAlone(later, snapshot)
  const last = await later.restart()
  assert.equal(last.snapshots.compressor.statusOf(snapshot.id)?.state, 'compressed')
  await makeReady(last, snapshot)
  await last.restart().then(close)
})

/** Ends what a restarted world runs; the directory goes with the first one. */
async function close({ snapshots }: CompressionWorld): Promise<void> {
  await snapshots.compressor[Symbol.asyncDispose]()
  await snapshots.keeper[Symbol.asyncDispose]()
}

test('of what a crash left in both forms, the one that is not sealed goes at the next start', async () => {
  await using first = await compressionWorld()
  const snapshot = await first.take({ 'memory-1.base': memory })
  await isCompressedAlone(first, snapshot)
  const second = await first.restart(async () => {
    await writeFile(fileOf(first, snapshot, raw[0] ?? ''), 'half of it')
    await writeFile(fileOf(first, snapshot, 'compressed/memory-2.base.zst'), 'half of it')
  })
  assert.deepEqual(await second.memoryOf(snapshot), zst)
  await makeReady(second, snapshot)
  assert.ok((await readFile(fileOf(second, snapshot, raw[0] ?? ''))).equals(memory))
  await close(second)
})

test('a compressed file that was damaged is refused before anything starts, also by a verification; the disks are of use all the same', async () => {
  await using world = await compressionWorld()
  const snapshot = await world.take({ 'memory-1.base': memory })
  await isCompressedAlone(world, snapshot)
  const file = fileOf(world, snapshot, zst[0] ?? '')
  const bytes = await readFile(file)
  bytes[20] = (bytes[20] ?? 0) ^ 1
  await writeFile(file, bytes)
  const refused = (error: unknown): boolean => isHypemanError(error, 'corrupt_snapshot') && error.message.includes('memory-1.base.zst')
  await assert.rejects(makeReady(world, snapshot), refused)
  assert.deepEqual(await world.memoryOf(snapshot), zst)
  const found = await verify(world, snapshot)
  assert.equal(found?.type === 'result' && found.status, 'bad')
  await checkSnapshot(world.snapshots, snapshot, false)
  await writeFile(fileOf(world, snapshot, 'compression.json'), '{}')
  const worse = await verify(world, snapshot)
  assert.ok(worse?.type === 'result' && worse.files.some(({ name, status }) => name === 'compression.json' && status === 'bad'))
})

test('memory that was written to is not compressed: the state says what is wrong, and the memory stays', async () => {
  const held = gate('snapshot.compress/compress')
  await using world = await compressionWorld(held)
  const snapshot = await world.take({ 'memory-1.base': memory })
  await until('its digest is known', () => !world.snapshots.keeper.isReading(snapshot.id))
  await appendFile(fileOf(world, snapshot, raw[0] ?? ''), 'x')
  held.open()
  await world.untilState(snapshot, 'error')
  assert.match(world.snapshots.compressor.statusOf(snapshot.id)?.error ?? '', /memory-1\.base has 1200001 bytes instead of 1200000/)
  assert.deepEqual(await world.memoryOf(snapshot), raw)
  assert.deepEqual(await world.staged(), [])
})

test('a compressed file that does not come back as the memory was is never put in its place', async () => {
  const held = gate('snapshot.compress/compare')
  await using world = await compressionWorld(held)
  const snapshot = await world.take({ 'memory-1.base': memory })
  const other = await world.take({ 'memory-1.base': Buffer.alloc(memory.length, 'x') })
  await held.reached
  const { layout } = world.snapshots.instances
  const staged = path.join(layout.staging, `compression-${snapshot.id}`, 'memory-1.base.zst')
  await copyFile(staged, path.join(layout.root, 'kept'))
  // Of the same length, by the same program, of something else.
  const { compressFile } = await import('../files/compression.ts')
  await rm(staged)
  await compressFile(fileOf(world, other, raw[0] ?? ''), staged, { algorithm: 'zstd', level: 1 }, new AbortController().signal)
  held.open()
  await world.untilState(snapshot, 'error')
  assert.match(world.snapshots.compressor.statusOf(snapshot.id)?.error ?? '', /did not come back as it was/)
  assert.deepEqual(await world.memoryOf(snapshot), raw)
  await isCompressedAlone(world, other)
})

test('memory that does not get smaller stays as it is, and is not tried again', async () => {
  await using first = await compressionWorld()
  const snapshot = await first.take({ 'memory-1.base': randomBytes(2 ** 20) })
  await first.untilState(snapshot, 'none')
  assert.match(first.snapshots.compressor.statusOf(snapshot.id)?.note ?? '', /would not get smaller/)
  const second = await first.restart()
  assert.equal(second.snapshots.compressor.statusOf(snapshot.id)?.state, 'none')
  assert.deepEqual(await second.memoryOf(snapshot), raw)
  await close(second)
})

test('memory that was brought back and could not be sealed is not left behind; the next one who needs it has it', async (t) => {
  await using world = await compressionWorld()
  const snapshot = await world.take({ 'memory-1.base': memory })
  await isCompressedAlone(world, snapshot)
  const { keeper } = world.snapshots
  const full = t.mock.method(keeper, 'update', () => Promise.reject(new Error('no room for the seals')))
  await assert.rejects(makeReady(world, snapshot), /no room for the seals/)
  assert.deepEqual(await world.memoryOf(snapshot), zst)
  assert.deepEqual(await world.staged(), [])
  full.mock.restore()
  await makeReady(world, snapshot)
  assert.deepEqual(await readFile(fileOf(world, snapshot, raw[0] ?? '')), memory)
})

test('memory is not given up for a compressed file that the verification of another snapshot has found damaged', async () => {
  await using world = await compressionWorld(undefined, 60_000)
  const one = await world.take({ 'memory-1.base': memory })
  const other = await world.takeSharing(one)
  for (const each of [one, other]) await isCompressedAlone(world, each)
  const { ino } = await stat(fileOf(world, one, zst[0] ?? ''))
  assert.equal((await stat(fileOf(world, other, zst[0] ?? ''))).ino, ino)
  // It is back for a fork, and stays for a minute by itself.
  await makeReady(world, other)
  const { instances } = world.snapshots
  const seen = seeFile(fileOf(world, one, zst[0] ?? '')) ?? assert.fail('it is there')
  const wanted = readCompression(instances.layout.snapshot(other.id), other.id) ?? assert.fail('it is to be compressed')
  const free = (): Promise<boolean> => freeMemory(world.snapshots, other, wanted, () => ['memory-1.base'], AbortSignal.timeout(10_000))
  instances.digests.setDamaged(seen, true)
  await assert.rejects(free(), /found damaged.*the memory file stays/)
  assert.deepEqual(await readFile(fileOf(world, other, raw[0] ?? '')), memory)
  // Without that it goes.
  instances.digests.setDamaged(seen, false)
  assert.equal(await free(), true)
  await isCompressedAlone(world, other)
})
