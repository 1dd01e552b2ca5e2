// Memory that is taken back from running guests: of whom, what is told of it, and that it is given back.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aDriver, stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { isHypemanError } from '../api/errors.ts'
import { reclaimMemoryBody, type ReclaimedMemory, type ReclaimMemoryBody } from '../api/schemas/resources.ts'
import type { Balloon, Machine } from '../hypervisors/driver.ts'
import { holdInstance } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { endReclaim, isReclaimOver, reclaimMemory } from './reclaim.ts'

const GIB = 1024 ** 3
const HOST = 64 * GIB
const now = new Date().toISOString()
const running = { programStartedAt: now, agentReadyAt: now, process: stateOnly('running').process }

interface World extends AsyncDisposable {
  readonly base: TestContext
  /** What each machine was asked for. */
  readonly asked: Map<Machine, number>
  /** What it gives of that. */
  gives: (bytes: number) => number
  fails: boolean
  /** A running instance; `qemu-microvm` has no balloon here. */
  guest(name: string, bytes?: number, hypervisor?: 'qemu' | 'qemu-microvm'): Promise<InstanceEntry>
  reclaim(body: Partial<ReclaimMemoryBody>): Promise<ReclaimedMemory>
}

async function world(): Promise<World> {
  const asked = new Map<Machine, number>()
  const balloon: Balloon = {
    given: async (machine) => made.gives(asked.get(machine) ?? 0),
    async ask(machine, bytes) {
      if (made.fails) throw new Error('the VMM does not take it')
      asked.set(machine, bytes)
    },
  }
  const drivers = new Map([
    ['qemu' as const, aDriver('qemu', { balloon })],
    ['qemu-microvm' as const, aDriver('qemu-microvm')],
  ])
  const base = await testContext({ drivers })
  const made: World = {
    base,
    asked,
    gives: (bytes) => bytes,
    fails: false,
    async guest(name, bytes = 2 * GIB, hypervisor = 'qemu') {
      const entry = await base.add({ ...running, name, memoryBytes: bytes, hypervisor })
      entry.machine = stateOnly('running')
      return entry
    },
    reclaim: (body) => reclaimMemory(base.context, reclaimMemoryBody.parse({ reclaim_bytes: 0, ...body }), HOST),
    [Symbol.asyncDispose]: () => base[Symbol.asyncDispose](),
  }
  return made
}

const askedOf = (all: World, { machine }: InstanceEntry): number | undefined => (machine === undefined ? undefined : all.asked.get(machine))

test('each running guest gives in proportion, for as long as was said, and who can not is named with the reason', async () => {
  await using all = await world()
  const [large, small, other, stopped] = [
    await all.guest('large', 4 * GIB),
    await all.guest('small', 2 * GIB),
    await all.guest('other', 2 * GIB, 'qemu-microvm'),
    await all.base.add({ name: 'stopped' }),
  ]
  const before = Date.now()
  const answer = await all.reclaim({ reclaim_bytes: 1.5 * GIB, hold_for: '10m', reason: 'a build' })
  assert.deepEqual(
    [askedOf(all, large), askedOf(all, small), askedOf(all, other), askedOf(all, stopped)],
    [GIB, GIB / 2, undefined, undefined],
  )
  assert.deepEqual([answer.planned_reclaim_bytes, answer.applied_reclaim_bytes], [1.5 * GIB, 1.5 * GIB])
  assert.deepEqual(
    answer.actions.map(({ instance_name: name, status, applied_reclaim_bytes: applied }) => [name, status, applied]),
    [
      ['large', 'applied', GIB],
      ['small', 'applied', GIB / 2],
      ['other', 'unsupported', 0],
    ],
  )
  assert.match(answer.actions[2]?.error ?? '', /qemu-microvm takes no memory back/)
  const [first] = answer.actions
  assert.deepEqual(
    [
      first?.previous_target_guest_memory_bytes,
      first?.planned_target_guest_memory_bytes,
      first?.target_guest_memory_bytes,
      first?.protected_floor_bytes,
    ],
    [4 * GIB, 3 * GIB, 3 * GIB, 2 * GIB],
  )
  const until = Date.parse(answer.hold_until ?? '')
  assert.ok(until >= before + 600_000 && until <= Date.now() + 600_000)
  assert.deepEqual(large.record.balloon, { bytes: GIB, until: answer.hold_until })
})

test('a request replaces the one before, 0 gives all of it back, and one that asks what would be asks nobody', async () => {
  await using all = await world()
  const guest = await all.guest('one')
  const dry = await all.reclaim({ reclaim_bytes: 16 * GIB, dry_run: true })
  assert.deepEqual(
    [dry.planned_reclaim_bytes, dry.applied_reclaim_bytes, dry.hold_until, askedOf(all, guest)],
    [GIB, 0, undefined, undefined],
  )
  assert.deepEqual(
    dry.actions.map(({ status }) => status),
    ['planned'],
  )
  await all.reclaim({ reclaim_bytes: GIB })
  const less = await all.reclaim({ reclaim_bytes: GIB / 4 })
  assert.deepEqual([askedOf(all, guest), less.actions[0]?.previous_target_guest_memory_bytes], [GIB / 4, GIB])
  const none = await all.reclaim({ reclaim_bytes: 0 })
  assert.deepEqual([askedOf(all, guest), guest.record.balloon, none.hold_until], [0, null, undefined])
  assert.deepEqual(
    (await all.reclaim({ reclaim_bytes: 0 })).actions.map(({ status }) => status),
    ['unchanged'],
  )
})

test('a guest that gives less by the time of the answer is told as it is', async () => {
  await using all = await world()
  all.gives = (bytes) => bytes / 4
  await all.guest('slow')
  const { actions, applied_reclaim_bytes: applied } = await all.reclaim({ reclaim_bytes: GIB })
  assert.deepEqual([actions[0]?.status, applied], ['pending', GIB / 4])
})

test('a VMM that does not take it, and a guest that is busy, are told with the reason; what may have been taken is on record, so that it is given back', async () => {
  await using all = await world()
  const [one, busy] = [await all.guest('one'), await all.guest('busy')]
  all.fails = true
  using _lock = await holdInstance(all.base.context, busy)
  const { actions } = await all.reclaim({ reclaim_bytes: GIB })
  assert.deepEqual(
    actions.map(({ status, applied_reclaim_bytes: applied }) => [status, applied]),
    [
      ['error', 0],
      ['error', 0],
    ],
  )
  assert.match(actions[0]?.error ?? '', /the VMM does not take it/)
  assert.match(actions[1]?.error ?? '', /is busy with another operation/)
  assert.ok((one.record.balloon?.bytes ?? 0) > 0)
  assert.equal(busy.record.balloon, null)
})

test('what is over is given back, once; what could not be given back stays on record and is tried again later', async () => {
  await using all = await world()
  const guest = await all.guest('one')
  await all.reclaim({ reclaim_bytes: GIB, hold_for: '1ms' })
  const later = Date.now() + 1_000
  assert.equal(isReclaimOver(guest, later), true)
  all.fails = true
  await assert.rejects(endReclaim(all.base.context, guest), /the VMM does not take it/)
  assert.deepEqual([guest.record.balloon?.bytes, isReclaimOver(guest, later)], [GIB, false])
  assert.equal(isReclaimOver(guest, later + 60_000), true)
  all.fails = false
  await endReclaim(all.base.context, guest)
  assert.deepEqual([askedOf(all, guest), guest.record.balloon, isReclaimOver(guest, later + 60_000)], [0, null, false])
  await all.reclaim({ reclaim_bytes: GIB, hold_for: '10m' })
  await endReclaim(all.base.context, guest)
  assert.equal(askedOf(all, guest), GIB, 'it is not over yet')
})

test('nothing is held for longer than an hour, and without any balloon the answer is not_supported', async () => {
  await using all = await world()
  await all.guest('one')
  await assert.rejects(all.reclaim({ reclaim_bytes: 1, hold_for: '61m' }), (error) => isHypemanError(error, 'invalid_request'))
  await using without = await testContext({ drivers: new Map([['qemu', aDriver('qemu')]]) })
  const body = reclaimMemoryBody.parse({ reclaim_bytes: 1 })
  await assert.rejects(reclaimMemory(without.context, body, HOST), (error) => isHypemanError(error, 'not_supported'))
})
