// What operations at the same time must not do to each other. Each was seen by clients of a real server (tests/model).

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { createFakeAgent } from '../../tests/support/fake-agent.ts'
import { aDriver, stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import type { Machine, MachineStatus, MemorySnapshots } from '../hypervisors/driver.ts'
import type { ImageService } from '../images/types.ts'
import type { ProcessEnd } from '../platform/process.ts'
import { holdInstance } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf } from './machine.ts'
import { permit } from './permission.ts'
import { createInstanceService } from './service.ts'
import { standbyInstance } from './standby.ts'
import { waitForState } from './wait.ts'

const now = new Date().toISOString()
const forever = AbortSignal.any([])

function hasCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => isHypemanError(error, code)
}

async function running(world: TestContext, machine: Machine = stateOnly('running')): Promise<InstanceEntry> {
  const entry = await world.add({ programStartedAt: now, agentReadyAt: now })
  entry.machine = machine
  return entry
}

test('what waited for its turn while the instance was deleted finds nothing, and touches nothing', async () => {
  await using world = await testContext()
  const entry = await world.add()
  const service = createInstanceService(world.context, () => undefined)
  const deleting = await holdInstance(world.context, entry)
  const waiting = [
    service.start(entry.id, {}),
    service.stop(entry.id),
    service.standby(entry.id, {}),
    service.restore(entry.id),
    service.fork(entry.id, { name: 'forked', from_running: true }, 'tests'),
    service.update(entry.id, { ttl: '1h' }, 'tests'),
    service.remove(entry.id, { gracefulShutdown: false }),
  ].map((operation) => assert.rejects(operation, hasCode('not_found')))
  world.context.store.forget(entry)
  deleting[Symbol.dispose]()
  await Promise.all(waiting)
})

test('a fork whose name is taken does not make its source stand still', async () => {
  await using world = await testContext({ drivers: new Map([['qemu', aDriver('qemu')]]) })
  const [entry, other] = [await running(world), await world.add()]
  const service = createInstanceService(world.context, () => undefined)
  await assert.rejects(service.fork(entry.id, { name: other.record.name, from_running: true }, 'tests'), hasCode('name_conflict'), 'tests')
})

test('a command that comes while the guest stands still for a snapshot waits for it', async () => {
  await using world = await testContext()
  const entry = await running(world, stateOnly('paused'))
  const agent = createFakeAgent()
  entry.agent = Promise.resolve(agent)
  const snapshot = await holdInstance(world.context, entry)
  const found = createInstanceService(world.context, () => undefined).agent(entry.id, 0, forever)
  entry.machine = stateOnly('running')
  world.context.events.step(entry.id, { flow: 'snapshot.create', step: 'capture', ms: 1 })
  assert.equal(await found, agent)
  snapshot[Symbol.dispose]()
})

test('a wait does not end at a state that an operation under way is about to change', async () => {
  await using world = await testContext()
  const entry = await world.add()
  const restoring = await holdInstance(world.context, entry)
  const waiting = waitForState(world.context, entry, 'Running', 30_000, forever)
  entry.machine = stateOnly('running')
  entry.record = { ...entry.record, programStartedAt: now, agentReadyAt: now }
  world.context.events.state(entry.id, 'Running', 'ready')
  assert.deepEqual(await waiting, { state: 'Running', timedOut: false })
  restoring[Symbol.dispose]()
})

test('an instance on its way to standby is never seen as stopped', async () => {
  const exited = Promise.withResolvers<ProcessEnd>()
  const machine: Machine = {
    ...stateOnly('running'),
    exited: exited.promise,
    pause: () => Promise.resolve(),
    async kill() {
      exited.resolve({ code: null, reason: 'killed by SIGKILL' })
      await exited.promise
      seen.push(entry.derive('gone').state)
    },
  }
  const memory: Partial<MemorySnapshots> = { suspend: () => Promise.resolve({ pausedMs: 1, memoryBytes: 1 }) }
  const images = { byDigest: () => ({ rootfsPath: '/rootfs' }) } as unknown as ImageService
  await using world = await testContext({
    images,
    drivers: new Map([['qemu', aDriver('qemu', { memory: memory as MemorySnapshots, partOf: () => undefined })]]),
  })
  const entry = await running(world, machine)
  entry.record = { ...entry.record, skipGuestAgent: true }
  const seen: string[] = []
  await standbyInstance(world.context, entry)
  assert.deepEqual(seen, ['Standby'])
})

test('a command that a delete breaks off is not told that the instance is gone, for it is not yet', async () => {
  await using world = await testContext()
  const asked = Promise.withResolvers<void>()
  const entry = await running(world, {
    ...stateOnly('running'),
    kill: () => Promise.resolve(),
    openAgentChannel: (signal) => {
      asked.resolve()
      return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
    },
  })
  const command = assert.rejects(agentOf(entry, world.context, forever), hasCode('guest_unreachable'))
  await asked.promise
  await createInstanceService(world.context, () => undefined).remove(entry.id, { gracefulShutdown: false })
  await command
})

test('an operation waits for a VMM that is slow to answer, where a look says Unknown', async () => {
  await using world = await testContext()
  const answer = Promise.withResolvers<MachineStatus>()
  const entry = await running(world, {
    ...stateOnly('running'),
    status: (signal) =>
      Promise.race([answer.promise, new Promise<never>((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)))]),
  })
  const permission = permit(entry, 'standby')
  assert.equal((await entry.observe()).state, 'Unknown')
  answer.resolve('running')
  assert.equal(await permission, 'Running')
})

test('a VMM that has just ended and takes no connection is a guest that can not be reached, no fault of ours', async () => {
  await using world = await testContext()
  const refused = Object.assign(new Error('connect ECONNREFUSED agent.sock'), { code: 'ECONNREFUSED' })
  const entry = await running(world, { ...stateOnly('running'), openAgentChannel: () => Promise.reject(refused) })
  await assert.rejects(agentOf(entry, world.context, forever), hasCode('guest_unreachable'))
})

test('an agent that nobody waits for any more, of a machine that is gone, is no fault of the server', async () => {
  await using world = await testContext()
  const entry = await world.add()
  await assert.rejects(agentOf(entry, world.context, AbortSignal.abort(new Error('over'))), /over/)
  // A rejection that nobody hears of would end this process here.
  await setImmediate()
})
