// Memory that is being compressed against everything that may come in between: whoever needs it, whoever gives it up, changes of the record, crashes, and others who
// share it.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, link, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { aDriver, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { isHypemanError } from '../api/errors.ts'
import type { MemorySnapshots } from '../hypervisors/driver.ts'
import type { FaultPlan } from '../platform/flow.ts'
import { compressIfDue, stopCompressing } from './compress-standby.ts'
import { flowOn, lockInstance } from './context.ts'
import { holdsMemoryIn, makeMemoryReady, tidyStandby } from './decompress-standby.ts'
import type { InstanceEntry } from './entry.ts'
import { removeInstance } from './remove.ts'
import { replaceInstance } from './replace.ts'
import { sealMemory } from './saved-memory.ts'
import { standbyCompressionOf } from './snapshot-policy.ts'
import { standbyCompressionViewOf } from './standby-compression-view.ts'
import { stopInstance } from './stop.ts'

const content = Buffer.concat([Buffer.alloc(400_000, 'page'), Buffer.alloc(400_000), Buffer.alloc(400_000, 'other')])
const raw = ['memory-1.base']
const zst = ['compressed/memory-1.base.zst']
const isMemory = (name: string): boolean => path.basename(name).startsWith('memory')

const memory: Partial<MemorySnapshots> = {
  holdsMemory: async (directory) => existsSync(path.join(directory, 'device.state')),
  async discardMemory(directory) {
    await rm(path.join(directory, 'device.state'), { force: true })
    for (const name of await readdir(directory)) if (isMemory(name)) await rm(path.join(directory, name))
  },
}
const driver = aDriver('qemu', {
  memory: memory as MemorySnapshots,
  partOf: (file) => (file === 'device.state' ? 'state' : file.startsWith('memory') ? 'memory' : file === 'disk.raw' ? 'disk' : undefined),
})

/** Holds a step of compressing back until it is opened, and tells when it has been gone through. */
function gate(stepName: string): FaultPlan & { readonly reached: Promise<void>; readonly passed: Promise<void>; open(): void } {
  const [reached, opened, passed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  const id = `instance.compress/${stepName}`
  return {
    reached: reached.promise,
    open: () => opened.resolve(),
    passed: passed.promise,
    before: async (at) => {
      if (at !== id) return
      reached.resolve()
      await opened.promise
    },
    after: (at) => void (at === id && passed.resolve()),
  }
}

interface World extends AsyncDisposable {
  readonly base: TestContext
  /** An instance in standby whose memory is to be compressed at once. */
  asleep(files?: Readonly<Record<string, Buffer>>): Promise<InstanceEntry>
  begin(entry: InstanceEntry): void
  /** Waits until its memory lies there compressed and in no other form. */
  untilCompressed(entry: InstanceEntry, names?: readonly string[]): Promise<void>
  memoryOf(entry: InstanceEntry): Promise<string[]>
  staged(): Promise<string[]>
  /** As a flow does that needs the memory. */
  use(entry: InstanceEntry): Promise<void>
}

async function world(faults?: FaultPlan): Promise<World> {
  const base = await testContext({ drivers: new Map([['qemu', driver]]), faults })
  const { context } = base
  const directoryOf = (entry: InstanceEntry): string => context.layout.instance(entry.id)
  const begin = (entry: InstanceEntry): void => compressIfDue(context, entry, Date.now())
  return {
    base,
    async asleep(files = { 'memory-1.base': content }) {
      const entry = await base.add()
      for (const [name, bytes] of Object.entries({ ...files, 'device.state': Buffer.from('devices'), 'disk.raw': Buffer.from('disk') }))
        await writeFile(path.join(directoryOf(entry), name), bytes)
      entry.holdsMemory = true
      await context.store.update(entry, {
        savedMemory: await sealMemory(context, entry.record, directoryOf(entry)),
        standbyCompression: standbyCompressionOf(null, undefined, { compression: { enabled: true } }, Date.now()),
      })
      return entry
    },
    begin,
    async untilCompressed(entry, names = zst) {
      await until('only the compressed file is there', async () => {
        entry.compressionSeen = undefined
        begin(entry)
        return isDeepEqual(await memoryFiles(directoryOf(entry)), names)
      })
      await until('its record says so', () => entry.compressing === undefined)
      assert.deepEqual(sealedMemory(entry), names)
    },
    memoryOf: (entry) => memoryFiles(directoryOf(entry)),
    staged: () => readdir(context.layout.staging),
    async use(entry) {
      using _lock = await lockInstance(context, entry)
      using flow = flowOn(context, entry.id, 'test.use')
      await makeMemoryReady(context, entry, flow)
      assert.ok((await readFile(path.join(directoryOf(entry), 'memory-1.base'))).equals(content))
      assert.deepEqual(await memoryFiles(directoryOf(entry)), raw)
      assert.deepEqual(sealedMemory(entry), raw)
    },
    async [Symbol.asyncDispose]() {
      for (const entry of context.store.entries()) await stopCompressing(entry)
      await base[Symbol.asyncDispose]()
    },
  }
}

async function memoryFiles(directory: string): Promise<string[]> {
  return (await readdir(directory, { recursive: true })).filter(isMemory).toSorted()
}

function sealedMemory({ record }: InstanceEntry): string[] {
  return (record.savedMemory ?? [])
    .map(({ name }) => name)
    .filter(isMemory)
    .toSorted()
}

function isDeepEqual(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((name, at) => name === other[at])
}

const viewOf = (entry: InstanceEntry): ReturnType<typeof standbyCompressionViewOf>['standby_compression'] =>
  standbyCompressionViewOf(entry, 'Standby', Date.now()).standby_compression

const steps = ['compress', 'compare', 'seal', 'commit', 'free'] as const

for (const stepName of steps)
  test(`memory that is needed while it is compressed (${stepName}) is there whole, in one form alone, and is compressed later`, async () => {
    const held = gate(stepName)
    await using all = await world(held)
    const entry = await all.asleep()
    all.begin(entry)
    await held.reached
    const used = all.use(entry)
    held.open()
    await used
    assert.equal(entry.compressing, undefined)
    assert.deepEqual(await all.staged(), [])
    await all.base.context.store.update(entry, {
      standbyCompression: standbyCompressionOf(null, undefined, { compression: { enabled: true } }, 0),
    })
    await all.untilCompressed(entry)
  })

for (const stepName of steps)
  test(`an instance is deleted while its memory is compressed (${stepName}), and nothing is left`, async () => {
    const held = gate(stepName)
    await using all = await world(held)
    const entry = await all.asleep()
    all.begin(entry)
    await held.reached
    const removed = removeInstance(all.base.context, entry, { graceful: false })
    held.open()
    await removed
    assert.deepEqual(await all.staged(), [])
    assert.equal(existsSync(all.base.context.layout.instance(entry.id)), false)
  })

for (const stepName of steps)
  test(`an instance is stopped while its memory is compressed (${stepName}), and its disk alone is left`, async () => {
    const held = gate(stepName)
    await using all = await world(held)
    const entry = await all.asleep()
    all.begin(entry)
    await held.reached
    const stopped = stopInstance(all.base.context, entry)
    held.open()
    await stopped
    assert.deepEqual(await all.staged(), [])
    const left = (await readdir(all.base.context.layout.instance(entry.id))).filter((name) => name !== 'logs')
    assert.deepEqual(left.toSorted(), ['disk.raw', 'record.json'])
    assert.deepEqual([entry.holdsMemory, entry.record.standbyCompression], [false, null])
  })

for (const stepName of steps)
  test(`an instance is restored in place while its memory is compressed (${stepName}), which ends before anything of the restored one runs`, async () => {
    const held = gate(stepName)
    await using all = await world(held)
    const { context } = all.base
    const entry = await all.asleep()
    const place = context.layout.instance(entry.id)
    await mkdir(path.join(place, 'logs'))
    all.begin(entry)
    await held.reached
    const restored = Buffer.alloc(300_000, 'restored')
    const { record } = entry
    const replace = async (): Promise<void> => {
      using _lock = await lockInstance(context, entry)
      using flow = flowOn(context, entry.id, 'test.replace')
      await replaceInstance(context, entry, flow, {
        async fill(directory) {
          await writeFile(path.join(directory, 'memory-1.base'), restored)
          await writeFile(path.join(directory, 'device.state'), 'devices')
          return { ...record, savedMemory: await sealMemory(context, record, directory), standbyCompression: null }
        },
        holdsMemory: true,
        reach: async () => assert.deepEqual([entry.compressing, entry.compressionSeen?.error], [undefined, undefined]),
      })
    }
    const replaced = replace()
    held.open()
    await replaced
    assert.deepEqual([await all.memoryOf(entry), sealedMemory(entry)], [raw, raw])
    assert.ok((await readFile(path.join(place, 'memory-1.base'))).equals(restored))
    assert.deepEqual(await all.staged(), [])
  })

test('whoever holds the instance and needs its memory does not wait for the change, which waits for them', async () => {
  const held = gate('seal')
  await using all = await world(held)
  const { context } = all.base
  const entry = await all.asleep()
  all.begin(entry)
  await held.reached
  using _lock = await lockInstance(context, entry)
  held.open()
  await held.passed
  using flow = flowOn(context, entry.id, 'test.use')
  await makeMemoryReady(context, entry, flow)
  assert.deepEqual([await all.memoryOf(entry), await all.staged(), entry.compressing], [raw, [], undefined])
  all.begin(entry)
  assert.equal(entry.compressing, undefined, 'nothing begins while an operation is under way')
})

test('what changes in the record meanwhile is not lost', async () => {
  const held = gate('compare')
  await using all = await world(held)
  const entry = await all.asleep()
  all.begin(entry)
  await held.reached
  await all.base.context.store.update(entry, { tags: { team: 'web' } })
  held.open()
  await all.untilCompressed(entry)
  assert.deepEqual(entry.record.tags, { team: 'web' })
})

test('memory that others name as well stays as it is and says so; what they name by the end of the work, too', async () => {
  const held = gate('compare')
  await using all = await world(held)
  const { context } = all.base
  const entry = await all.asleep()
  const fork = path.join(context.layout.root, 'fork')
  await mkdir(fork)
  all.begin(entry)
  await held.reached
  await link(path.join(context.layout.instance(entry.id), 'memory-1.base'), path.join(fork, 'memory-1.base'))
  held.open()
  await entry.compressing?.done
  assert.deepEqual(await all.memoryOf(entry), raw)
  entry.compressionSeen = undefined
  all.begin(entry)
  assert.deepEqual([viewOf(entry)?.state, entry.compressing], ['none', undefined])
  assert.match(viewOf(entry)?.note ?? '', /memory-1\.base: shared with 1 other place/)
  await rm(fork, { recursive: true })
  await all.untilCompressed(entry)
})

test('memory that does not get smaller stays, and is not tried again; memory that was written to stays, and the state says why', async () => {
  await using all = await world()
  const random = await all.asleep({ 'memory-1.base': randomBytes(2 ** 20), 'memory-1.diff': content })
  await all.untilCompressed(random, ['compressed/memory-1.diff.zst', ...raw].toSorted())
  assert.equal(viewOf(random)?.state, 'compressed')
  assert.match(viewOf(random)?.note ?? '', /memory-1\.base: would not get smaller/)
  random.compressionSeen = undefined
  all.begin(random)
  assert.equal(random.compressing, undefined)

  const written = await all.asleep()
  await appendFile(path.join(all.base.context.layout.instance(written.id), 'memory-1.base'), 'x')
  all.begin(written)
  await written.compressing?.done
  assert.equal(viewOf(written)?.state, 'error')
  assert.match(viewOf(written)?.error ?? '', /memory-1\.base has 1200001 bytes instead of 1200000/)
  assert.deepEqual([await all.memoryOf(written), await all.staged()], [raw, []])
})

test('of what a crash left in both forms, the one that is not sealed goes at the next start; without its device state nothing is held', async () => {
  await using all = await world()
  const { context } = all.base
  const entry = await all.asleep()
  const directory = context.layout.instance(entry.id)
  await mkdir(path.join(directory, 'compressed'))
  await writeFile(path.join(directory, 'compressed', 'memory-1.base.zst'), 'half of it')
  await tidyStandby(context, entry)
  assert.deepEqual([await all.memoryOf(entry), await readdir(directory)].flat().includes('compressed'), false)
  await all.untilCompressed(entry)
  await writeFile(path.join(directory, 'memory-1.base'), 'half of it')
  await writeFile(path.join(directory, 'compressed', 'memory-2.base.zst'), 'half of it')
  await tidyStandby(context, entry)
  assert.deepEqual(await all.memoryOf(entry), zst)
  const careful = { ...driver, memory: { ...memory, holdsMemory: async () => false } as MemorySnapshots }
  assert.equal(await holdsMemoryIn(careful, entry.record, directory), true, 'a driver that looks for the memory file itself')
  await rm(path.join(directory, 'device.state'))
  assert.equal(await holdsMemoryIn(driver, entry.record, directory), false)
})

test('a compressed file that was damaged is refused and nothing changes, and a full table of places lets nothing begin', async () => {
  await using all = await world()
  const { context } = all.base
  const entry = await all.asleep()
  const slot = context.compressions.take()
  all.begin(entry)
  assert.equal(entry.compressing, undefined)
  slot?.[Symbol.dispose]()
  await all.untilCompressed(entry)
  const file = path.join(context.layout.instance(entry.id), zst[0] ?? '')
  const bytes = await readFile(file)
  bytes[20] = (bytes[20] ?? 0) ^ 1
  await writeFile(file, bytes)
  await assert.rejects(all.use(entry), (error) => isHypemanError(error, 'corrupt_snapshot') && error.message.includes('memory-1.base.zst'))
  assert.deepEqual([await all.memoryOf(entry), sealedMemory(entry), await all.staged()], [zst, zst, []])
})
