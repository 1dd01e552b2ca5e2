// Restarts that are planned are made in their time, once, and never after they were called off. The VMM is the test's, and so is the time.

import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { pino } from 'pino'
import { aDriver, stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { HypemanError } from '../api/errors.ts'
import type { Machine } from '../hypervisors/driver.ts'
import { createInstanceService, noRestarts, type InstanceContext, type InstanceEntry, type InstanceRecord } from '../instances/index.ts'
import { startRestarts } from './restarts.ts'

const policy = { policy: 'on_failure', backoffMs: 5_000, maxAttempts: 2, stableAfterMs: 600_000 } as const
const inMs = (ms: number): string => new Date(Date.now() + ms).toISOString()

interface World extends TestContext {
  readonly boots: string[]
  /** What a boot does; by default it makes a machine that starts and never gets ready. */
  boot: () => Promise<Machine>
  planned(change?: Partial<InstanceRecord>): Promise<InstanceEntry>
}

async function startWorld(): Promise<World> {
  mock.timers.enable({ apis: ['setInterval', 'Date'], now: Date.parse('2026-11-29T08:00:00.000Z') })
  const boots: string[] = []
  const driver = aDriver('qemu', {
    stamp: () => Promise.resolve({ hypervisor: 'qemu', version: '1', machineType: 'q35', accelerator: 'tcg' }),
    boot: (spec) => {
      boots.push(spec.instanceId)
      return world.boot()
    },
  })
  const image = { name: 'app', digest: 'sha256:0', rootfsPath: '/rootfs' }
  const images = { byDigest: () => image, hold: () => ({ [Symbol.dispose]: () => undefined }) } as unknown as InstanceContext['images']
  const stopping = new AbortController()
  const inner = await testContext({ drivers: new Map([['qemu', driver]]), images, stopping: stopping.signal })
  const job = startRestarts(inner.context, pino({ level: 'silent' }))
  const world: World = {
    ...inner,
    boots,
    boot: async () => machine(),
    planned: (change = {}) =>
      inner.add({
        ...{ restartPolicy: policy, restarts: { ...noRestarts, nextAttemptAt: inMs(1_000) } },
        ...{ network: null, stoppedAt: inMs(0), exit: { code: 1, message: 'exited with code 1' } },
        ...change,
      }),
    async [Symbol.asyncDispose]() {
      stopping.abort(new HypemanError('canceled', 'the test is over'))
      await job[Symbol.asyncDispose]()
      mock.timers.reset()
      for (const entry of inner.context.store.entries()) await entry.readying
      await inner[Symbol.asyncDispose]()
    },
  }
  return world
}

/** It runs, and its agent is never reached. */
function machine(): Machine {
  return {
    ...stateOnly('running'),
    openAgentChannel: (signal) => new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error))),
    kill: () => Promise.resolve(),
  }
}

const booted = (entry: InstanceEntry): Promise<void> => until('it is started again', () => entry.record.process !== null)

test('an instance is started again when its time has come, not before, and the plan is gone with that', async () => {
  await using world = await startWorld()
  const entry = await world.planned()
  mock.timers.tick(750)
  assert.deepEqual(world.boots, [])
  mock.timers.tick(250)
  await booted(entry)
  assert.deepEqual(world.boots, [entry.id])
  const { restarts } = entry.record
  assert.deepEqual([restarts.attempts, restarts.nextAttemptAt, entry.record.exit], [1, null, null])
  assert.equal(restarts.lastAttemptAt, new Date().toISOString())
})

test('one that is stopped while it waits is not started, nor one that was deleted', async () => {
  await using world = await startWorld()
  const service = createInstanceService(world.context, () => undefined)
  const [stopped, deleted, started] = [await world.planned(), await world.planned(), await world.planned()]
  const view = await service.stop(stopped.id)
  assert.deepEqual(
    [view.state, view.restart_status?.blocked_reason, view.restart_status?.next_attempt_at],
    ['Stopped', 'manual_stop', null],
  )
  await service.remove(deleted.id, { gracefulShutdown: false })
  mock.timers.tick(1_000)
  await booted(started)
  assert.deepEqual(world.boots, [started.id])
})

test('what is called off while the attempt waits for its turn is not made', async () => {
  await using world = await startWorld()
  const entry = await world.planned()
  const held = await world.context.locks.acquire(entry.id, { waitMs: 1_000, what: 'the instance' })
  mock.timers.tick(1_000)
  await world.context.store.update(entry, { restarts: { ...entry.record.restarts, nextAttemptAt: null } })
  held[Symbol.dispose]()
  await until('nobody waits any more', () => !world.context.locks.isHeld(entry.id))
  assert.deepEqual(world.boots, [])
})

test('an attempt that fails is followed by another after the backoff, until there were too many', async () => {
  await using world = await startWorld()
  world.boot = () => Promise.reject(new HypemanError('host_unavailable', 'no memory is left'))
  const entry = await world.planned()
  const { restarts: first } = entry.record
  mock.timers.tick(1_000)
  await until('the first has failed', () => entry.record.restarts.attempts === 1 && !world.context.locks.isHeld(entry.id))
  assert.equal(entry.record.restarts.nextAttemptAt, inMs(5_000))
  assert.notEqual(entry.record.restarts.nextAttemptAt, first.nextAttemptAt)
  await until('the second has failed', () => {
    mock.timers.tick(250)
    return entry.record.restarts.blockedReason !== null
  })
  assert.deepEqual(entry.record.restarts, {
    ...entry.record.restarts,
    attempts: 2,
    nextAttemptAt: null,
    blockedReason: 'max_attempts_exceeded',
  })
  mock.timers.tick(3_600_000)
  assert.equal(world.boots.length, 2)
  assert.deepEqual([entry.record.process, entry.record.exit], [null, { code: 1, message: 'exited with code 1' }])
})

test('a plan for a machine that runs is dropped when nothing is known against its health', async () => {
  await using world = await startWorld()
  const entry = await world.planned({ process: { pid: 1, startTicks: '0', bootId: '' }, runningSince: inMs(-60_000) })
  entry.machine = machine()
  mock.timers.tick(1_000)
  await until('the plan is gone', () => entry.record.restarts.nextAttemptAt === null)
  assert.deepEqual([world.boots, entry.record.restarts.attempts], [[], 0])
})

test('an end that could not be recorded when it came is recorded and planned for later', async () => {
  await using world = await startWorld()
  const gone = { pid: 1, startTicks: '0', bootId: '' }
  const entry = await world.planned({ process: gone, restarts: noRestarts, exit: null, programStartedAt: inMs(-1) })
  mock.timers.tick(250)
  await until('it is on record', () => entry.record.process === null)
  assert.equal(entry.record.restarts.nextAttemptAt, inMs(5_000))
  mock.timers.tick(5_000)
  await booted(entry)
})

test('a start by hand clears what was counted', async () => {
  await using world = await startWorld()
  const entry = await world.planned({ restarts: { ...noRestarts, attempts: 2, blockedReason: 'max_attempts_exceeded' } })
  await createInstanceService(world.context, () => undefined).start(entry.id, {})
  assert.deepEqual(entry.record.restarts, noRestarts)
})
