// What may be given to an instance, and what is refused with nothing changed. That machines and guests have it: hypervisors.test.ts, and with faults at every step: tests/faults.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aDriver, stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import type { AgentClient } from '../agent/contract.ts'
import { HypemanError, isHypemanError, type ErrorCode } from '../api/errors.ts'
import type { Hypervisor, MachineSize, Resize } from '../hypervisors/driver.ts'
import type { InstanceEntry } from './entry.ts'
import type { InstanceRecord } from './record.ts'
import { adjustRecord, resizeInstance } from './resize.ts'
import { readInstanceRecord } from './store.ts'

const MIB = 1024 ** 2
const sizes = { vcpus: 1, memoryBytes: 256 * MIB, hotplugBytes: 512 * MIB, overlayBytes: 64 * MIB }

const refusedAs =
  (code: ErrorCode, words: RegExp) =>
  (error: unknown): boolean =>
    isHypemanError(error, code) && words.test(error.message)

/** A driver whose machines grow, and what it was told. */
function growing(told: string[], parts: Partial<Hypervisor> = {}): Hypervisor {
  let has: MachineSize = { vcpus: 1, memoryMib: 256 }
  const resize: Resize = {
    disk: async (_machine, bytes) => void told.push(`disk ${bytes / MIB}`),
    machine: {
      memoryStepMib: 128,
      size: async () => has,
      grow: async (_machine, wanted) => {
        if (wanted.vcpus > 2) throw new HypemanError('conflict', 'it has no room for that')
        has = wanted
        told.push(`machine ${wanted.vcpus} ${wanted.memoryMib}`)
      },
    },
  }
  return aDriver('qemu', {
    resize,
    growDisk: async (_directory, bytes) => {
      told.push(`stopped disk ${bytes / MIB}`)
      return { [Symbol.asyncDispose]: async () => void told.push('taken back') }
    },
    ...parts,
  })
}

function worldWith(driver: Hypervisor): Promise<TestContext> {
  return testContext({ drivers: new Map([['qemu', driver]]) })
}

async function running(world: TestContext, told: string[], change: Partial<InstanceRecord> = {}): Promise<InstanceEntry> {
  const entry = await world.add({ ...sizes, programStartedAt: '2026-01-01T00:00:00Z', agentReadyAt: '2026-01-01T00:00:01Z', ...change })
  entry.machine = stateOnly('running')
  const agent: Partial<AgentClient> = {
    grow: async ({ vcpus, memoryBytes, diskBytes }) => void told.push(`guest ${vcpus} ${memoryBytes / MIB} ${diskBytes / MIB}`),
  }
  entry.agent = Promise.resolve(agent as AgentClient)
  return entry
}

async function onDisk(world: TestContext, { id }: InstanceEntry): Promise<Partial<InstanceRecord>> {
  const { vcpus, memoryBytes, hotplugBytes, overlayBytes } = await readInstanceRecord(world.context.layout.instance(id))
  return { vcpus, memoryBytes, hotplugBytes, overlayBytes }
}

test('an instance that runs is given more: disk, machine and record, and then its guest is told of all', async () => {
  const told: string[] = []
  await using world = await worldWith(growing(told))
  const entry = await running(world, told)
  await resizeInstance(world.context, entry, { vcpus: 2, memoryBytes: 384 * MIB, overlayBytes: 128 * MIB })
  assert.deepEqual(told, ['disk 128', 'machine 2 384', 'guest 2 384 128'])
  const grown = { vcpus: 2, memoryBytes: 384 * MIB, hotplugBytes: 384 * MIB, overlayBytes: 128 * MIB }
  assert.deepEqual(await onDisk(world, entry), grown)
  // Asked again, its guest is told again what it has.
  await resizeInstance(world.context, entry, { vcpus: 2, memoryBytes: 384 * MIB })
  assert.deepEqual(told.slice(3), ['guest 2 384 128'])
})

test('a stopped one is given any size of memory and processors for its next start, and a longer disk', async () => {
  const told: string[] = []
  await using world = await worldWith(growing(told))
  const entry = await world.add({ ...sizes })
  await resizeInstance(world.context, entry, { vcpus: 4, memoryBytes: 100 * MIB, overlayBytes: 65 * MIB })
  assert.deepEqual(told, ['stopped disk 65'])
  assert.deepEqual(await onDisk(world, entry), { ...sizes, vcpus: 4, memoryBytes: 100 * MIB, overlayBytes: 65 * MIB })
})

test('what a VMM refuses is not in the record, though it was written there first', async () => {
  const told: string[] = []
  await using world = await worldWith(growing(told))
  const entry = await running(world, told)
  await assert.rejects(resizeInstance(world.context, entry, { vcpus: 3, memoryBytes: 384 * MIB }), refusedAs('conflict', /no room/))
  assert.deepEqual([await onDisk(world, entry), told], [sizes, []])
})

test('what a machine was given while the server ended is in its record when it is found again', async () => {
  const told: string[] = []
  const driver = growing(told)
  await using world = await worldWith(driver)
  const entry = await running(world, told, { vcpus: 2, memoryBytes: 384 * MIB, hotplugBytes: 384 * MIB })
  const [machine, resize] = [entry.machine, driver.resize?.machine]
  assert.ok(machine !== undefined && resize !== undefined)
  await adjustRecord(world.context, entry, { machine, resize })
  assert.deepEqual(await onDisk(world, entry), sizes)
})

test('a guest that does not take what its machine has is told of, with what to do; the instance keeps it', async () => {
  const told: string[] = []
  await using world = await worldWith(growing(told))
  const entry = await running(world, told)
  const agent: Partial<AgentClient> = {
    grow: async () => {
      throw new HypemanError('conflict', 'there are 1 processors in use')
    },
  }
  entry.agent = Promise.resolve(agent as AgentClient)
  await assert.rejects(
    resizeInstance(world.context, entry, { vcpus: 2 }),
    refusedAs('conflict', /has been given it.* there are 1 processors in use; ask for the same size again, or stop and start it/),
  )
  assert.equal((await onDisk(world, entry)).vcpus, 2)
})

const refusals: readonly (readonly [
  what: string,
  asked: Partial<Pick<InstanceRecord, 'vcpus' | 'memoryBytes' | 'overlayBytes'>>,
  code: ErrorCode,
  words: RegExp,
  change?: Partial<InstanceRecord>,
  parts?: Partial<Hypervisor>,
])[] = [
  ['fewer processors', { vcpus: 1 }, 'invalid_state', /can't be given less; stop it first/, { vcpus: 2 }],
  ['less memory', { memoryBytes: 128 * MIB }, 'invalid_state', /can't be given less/],
  ['a shorter disk', { overlayBytes: 63 * MIB }, 'invalid_overlay_size', /has 64\.0 MB and can only grow/],
  ['half a piece of memory', { memoryBytes: 320 * MIB }, 'invalid_size', /in pieces of 128\.0 MB: 384\.0 MB would do/],
  [
    'more memory than there is room for',
    { memoryBytes: 896 * MIB },
    'invalid_size',
    /room for 768\.0 MB \(its size and its hotplug_size\)/,
  ],
  ['more processors than the server allows', { vcpus: 5 }, 'invalid_request', /at most 4/],
  ['more memory than the server allows', { memoryBytes: 2 ** 31 }, 'invalid_size', /at most 1\.0 GB/],
  ['anything without an agent', { vcpus: 2 }, 'invalid_state', /skip_guest_agent/, { skipGuestAgent: true }],
  [
    'a longer disk that has layers behind it',
    { overlayBytes: 128 * MIB },
    'not_supported',
    /layers over its volumes/,
    { volumes: [layered()] },
  ],
  [
    'a longer disk, by a hypervisor that can not',
    { overlayBytes: 128 * MIB },
    'not_supported',
    /qemu can't make a disk longer/,
    {},
    { resize: {} },
  ],
  [
    'more memory, by a hypervisor that can not',
    { memoryBytes: 384 * MIB },
    'not_supported',
    /qemu can't give .*; stop it first/,
    {},
    { resize: {} },
  ],
]

function layered(): InstanceRecord['volumes'][number] {
  return { volumeId: 'a', mountPath: '/a', readOnly: true, overlay: { offsetBytes: 64 * MIB, sizeBytes: 64 * MIB } }
}

for (const [what, asked, code, words, change = {}, parts = {}] of refusals)
  test(`${what}, while it runs, is refused, and nothing has changed`, async () => {
    const told: string[] = []
    await using world = await worldWith(growing(told, parts))
    const entry = await running(world, told, change)
    const before = await onDisk(world, entry)
    await assert.rejects(resizeInstance(world.context, entry, asked), refusedAs(code, words))
    assert.deepEqual([await onDisk(world, entry), told], [before, []])
  })

test('one in standby keeps its size, which its memory has', async () => {
  await using world = await worldWith(growing([]))
  const entry = await world.add({ ...sizes })
  entry.holdsMemory = true
  await assert.rejects(
    resizeInstance(world.context, entry, { vcpus: 2 }),
    refusedAs('invalid_state', /only a Running or Stopped instance can be given another size/),
  )
  assert.deepEqual(await onDisk(world, entry), sizes)
})
