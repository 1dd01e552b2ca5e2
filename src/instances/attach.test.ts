// Attaching and detaching: which state allows it, what is refused with nothing changed, and who may have a volume when many ask at once.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { aDriver, someVolumes, stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import { attachVolume, detachVolume } from './attach.ts'
import type { WantedVolume } from './overlays.ts'
import type { InstanceRecord } from './record.ts'
import { readInstanceRecord } from './store.ts'
import { claimVolumes } from './volumes.ts'

type Volume = InstanceRecord['volumes'][number]
const volume = (volumeId: string, mountPath: string, readOnly = false, overlay: Volume['overlay'] = null): Volume => ({
  ...{ volumeId, mountPath, readOnly },
  overlay,
})
const wanted = (volumeId: string, mountPath: string, readOnly = false, layerBytes: number | null = null): WantedVolume => ({
  ...{ volumeId, mountPath, readOnly },
  layerBytes,
})

function aWorld(volumes = someVolumes()): Promise<TestContext> {
  return testContext({ volumes, drivers: new Map([['qemu', aDriver('qemu', { maxVolumes: 2 })]]) })
}

const refusedAs =
  (code: ErrorCode, words: RegExp) =>
  (error: unknown): boolean =>
    isHypemanError(error, code) && words.test(error.message)

test('what is attached and detached is in the record on disk when the answer comes', async () => {
  await using world = await aWorld()
  const { context } = world
  const entry = await world.add({ volumes: [volume('a', '/a')] })
  const onDisk = async (): Promise<readonly Volume[]> => (await readInstanceRecord(context.layout.instance(entry.id))).volumes
  await attachVolume(context, entry, wanted('b', '/b', true))
  assert.deepEqual(await onDisk(), [volume('a', '/a'), volume('b', '/b', true)])
  await detachVolume(context, entry, 'a')
  assert.deepEqual(await onDisk(), [volume('b', '/b', true)])
})

test('a machine that runs, and one in standby, keep the devices that they have', async () => {
  await using world = await aWorld()
  const { context } = world
  const running = await world.add({ name: 'running', volumes: [volume('a', '/a')], programStartedAt: '2026-01-01T00:00:00Z' })
  running.machine = stateOnly('running')
  const asleep = await world.add({ name: 'asleep', volumes: [volume('b', '/b')] })
  asleep.holdsMemory = true
  for (const entry of [running, asleep]) {
    const before = entry.record
    await assert.rejects(attachVolume(context, entry, wanted('c', '/c')), refusedAs('invalid_state', /stop it first/))
    await assert.rejects(detachVolume(context, entry, before.volumes[0]?.volumeId ?? ''), refusedAs('invalid_state', /stop it first/))
    assert.equal(entry.record, before)
  }
})

test('a layer over a volume is made before the record names it, and taken back when the record can not be written', async () => {
  const part = { offsetBytes: 1024 ** 3, sizeBytes: 64 * 1024 ** 2 }
  const told: string[] = []
  const driver = aDriver('qemu', {
    async addDiskParts(_directory, sizes) {
      told.push(`made ${sizes.join()}`)
      return { parts: [part], [Symbol.asyncDispose]: async () => void told.push('taken back') }
    },
  })
  await using world = await testContext({ drivers: new Map([['qemu', driver]]) })
  const { context } = world
  const entry = await world.add()
  const { record } = entry
  const attach = (): Promise<void> => attachVolume(context, entry, wanted('a', '/a', true, part.sizeBytes))
  const update = context.store.update.bind(context.store)
  const failures = [
    // Not written at all, and written with the word of it lost: in both cases nothing is attached.
    async (): Promise<void> => Promise.reject(new Error('the disk fails')),
    async (...call: Parameters<typeof update>): Promise<void> => {
      context.store.update = update
      await update(...call)
      throw new Error('the disk fails')
    },
  ]
  for (const failure of failures) {
    context.store.update = failure
    await assert.rejects(attach(), /the disk fails/)
    context.store.update = update
    assert.deepEqual([entry.record.volumes, (await readInstanceRecord(context.layout.instance(entry.id))).volumes], [[], []])
    assert.deepEqual(told.splice(0), [`made ${part.sizeBytes}`, 'taken back'])
  }
  await attach()
  assert.deepEqual(entry.record, { ...record, volumes: [volume('a', '/a', true, part)] })
  assert.deepEqual(told, [`made ${part.sizeBytes}`])
})

test('a volume is attached to an instance once, on a path of its own, and only while there is room', async () => {
  await using world = await aWorld()
  const { context } = world
  const entry = await world.add({ volumes: [volume('a', '/a')] })
  const { record } = entry
  await assert.rejects(attachVolume(context, entry, wanted('a', '/b')), refusedAs('conflict', /already, at \/a/))
  await assert.rejects(attachVolume(context, entry, wanted('b', '/a')), refusedAs('invalid_request', /named twice/))
  await assert.rejects(attachVolume(context, entry, wanted('b', '/etc')), refusedAs('invalid_request', /system directory/))
  assert.equal(entry.record, record)
  await attachVolume(context, entry, wanted('b', '/b'))
  await assert.rejects(attachVolume(context, entry, wanted('c', '/c')), refusedAs('invalid_request', /at most 2 volumes/))
})

test('what is not attached can not be detached; what is can be, though the volume itself is damaged', async () => {
  const resolve = (ref: string): string => (ref === 'data' ? 'a' : assert.fail(`${ref} is looked up`))
  await using world = await aWorld(someVolumes({ resolve }))
  const { context } = world
  const entry = await world.add({ volumes: [volume('damaged', '/x')] })
  await assert.rejects(detachVolume(context, entry, 'data'), refusedAs('not_found', /not attached/))
  await detachVolume(context, entry, 'damaged')
  assert.deepEqual(entry.record.volumes, [])
})

test('while a snapshot is restored into an instance, nobody gets the volumes that it may have to take back', async () => {
  await using world = await aWorld()
  const { context } = world
  const [entry, other] = [await world.add({ name: 'one', volumes: [volume('a', '/a')] }), await world.add({ name: 'other' })]
  const claimed = await claimVolumes(context, [volume('b', '/b', true)], entry)
  await context.store.update(entry, { volumes: [volume('b', '/b', true)] })
  const attached = attachVolume(context, other, wanted('a', '/a'))
  const order: string[] = []
  const seen = attached.then(() => order.push('attached'))
  await detachVolume(context, entry, 'b')
  order.push('restored')
  claimed[Symbol.dispose]()
  await seen
  assert.deepEqual(order, ['restored', 'attached'])
})

test('however many attach and detach at once, a volume has one writer or many readers', async () => {
  const use = fc.record({
    instance: fc.nat({ max: 2 }),
    volume: fc.constantFrom('a', 'b'),
    readOnly: fc.boolean(),
    attach: fc.boolean(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(use, { maxLength: 12 }), async (uses) => {
      await using world = await aWorld()
      const { context } = world
      const entries = await Promise.all(['x', 'y', 'z'].map((name) => world.add({ name })))
      await Promise.all(
        uses.map(async (one) => {
          const entry = entries[one.instance] ?? assert.fail()
          const done = one.attach
            ? attachVolume(context, entry, wanted(one.volume, `/${one.volume}`, one.readOnly))
            : detachVolume(context, entry, one.volume)
          await done.catch((error: unknown) => {
            if (!isHypemanError(error, 'conflict') && !isHypemanError(error, 'not_found')) throw error
          })
          const held = entries.flatMap(({ record }) => record.volumes).filter(({ volumeId }) => volumeId === one.volume)
          assert.ok(held.length <= 1 || held.every(({ readOnly }) => readOnly), JSON.stringify(held))
        }),
      )
    }),
    { numRuns: 25 },
  )
})
