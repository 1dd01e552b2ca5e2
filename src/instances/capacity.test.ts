// Which instances hold processors and memory, and which only a disk; how large a new one may be.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aRecord, stateOnly, testContext } from '../../tests/support/instance-context.ts'
import { hostOf } from '../../tests/support/capacity.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import { identityOf } from '../platform/process.ts'
import { checkCopy, checkSizes, heldByInstances, reserveFor } from './capacity.ts'

test('processors and memory are held where a machine is, or where the recorded process lives; the disk always', async () => {
  await using world = await testContext()
  const alive = identityOf(process.pid) ?? null
  assert.ok(alive !== null)
  await world.add({ name: 'stopped' })
  // Its end is not on record yet.
  await world.add({ name: 'ended', process: { ...alive, startTicks: '1' } })
  await world.add({ name: 'not-taken-over', process: alive })
  const running = await world.add({ name: 'running', vcpus: 3 })
  running.machine = stateOnly('paused')
  const { memoryBytes, overlayBytes } = aRecord()
  assert.deepEqual(
    [...heldByInstances(world.context.store)].map(({ name, cpu, memory, disk }) => [name, cpu, memory, disk]),
    [
      ['stopped', 0, 0, overlayBytes],
      ['ended', 0, 0, overlayBytes],
      ['not-taken-over', 1, memoryBytes, overlayBytes],
      ['running', 3, memoryBytes, overlayBytes],
    ],
  )
})

test('an instance that is there needs room for what it does not have yet, and none for its disk', async () => {
  const { memoryBytes, overlayBytes } = aRecord()
  const capacity = hostOf({ cpu: 1, memory: memoryBytes, disk: overlayBytes })
  await using world = await testContext({ capacity })
  capacity.count(() => heldByInstances(world.context.store))
  const [one, other] = [await world.add(), await world.add()]
  reserveFor(world.context, one.record, false)[Symbol.dispose]()
  using _share = reserveFor(world.context, one.record, true)
  assert.throws(
    () => reserveFor(world.context, other.record, true),
    (error) => isHypemanError(error, 'insufficient_resources') && /1 more vCPU .* and 256\.0 MB more memory/.test(error.message),
  )
})

const sizes = { vcpus: 1, memoryBytes: 2 ** 28, overlayBytes: 2 ** 30 }
const wrong: readonly (readonly [change: Partial<typeof sizes>, code: ErrorCode, message: RegExp])[] = [
  [{ vcpus: 5 }, 'invalid_request', /vcpus: at most 4 .* 5; .* limits\.max_vcpus_per_instance/],
  [{ memoryBytes: 2 ** 30 + 1 }, 'invalid_size', /at most 1\.0 GB .*limits\.max_memory_per_instance/],
  [{ memoryBytes: 2 ** 20 }, 'invalid_size', /at least 64MB/],
  [{ overlayBytes: 2 ** 34 + 1 }, 'invalid_overlay_size', /at most 16\.0 GB .*limits\.max_overlay_size/],
  [{ overlayBytes: 2 ** 20 }, 'invalid_overlay_size', /at least 16MB/],
]

test('layers over volumes count with the disk that they are a part of, also while they are only wanted', async () => {
  const layer = 2 ** 26
  const capacity = hostOf({ cpu: 1, memory: 2 ** 30, disk: aRecord().overlayBytes + layer })
  await using world = await testContext({ capacity })
  capacity.count(() => heldByInstances(world.context.store))
  const volume = { volumeId: 'v', mountPath: '/v', readOnly: true }
  const { record } = await world.add({ volumes: [{ ...volume, overlay: { offsetBytes: 2 ** 30, sizeBytes: layer } }] })
  assert.deepEqual(
    capacity.holdings().map(({ disk }) => disk),
    [record.overlayBytes + layer],
  )
  reserveFor(world.context, record, true)[Symbol.dispose]()
  assert.throws(
    () => reserveFor(world.context, { ...record, volumes: [...record.volumes, { layerBytes: 1 }] }, false),
    (error) => isHypemanError(error, 'insufficient_resources'),
  )
})

test('a size that is out of bounds is refused by the name of its field, and a copy of it as more than the server has for one', async () => {
  await using world = await testContext()
  checkSizes(world.context, { vcpus: 4, memoryBytes: 2 ** 30, overlayBytes: 2 ** 34 })
  checkSizes(world.context, { vcpus: 1, memoryBytes: 2 ** 26, overlayBytes: 2 ** 24 })
  for (const [change, code, message] of wrong) {
    const whole = { ...sizes, ...change }
    assert.throws(
      () => checkSizes(world.context, whole),
      (error) => isHypemanError(error, code) && message.test(error.message),
    )
    assert.throws(
      () => checkCopy(world.context, whole),
      (error) => isHypemanError(error, 'insufficient_resources') && message.test(error.message),
    )
  }
})
