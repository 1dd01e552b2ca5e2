// Instances that nobody uses go to standby by themselves, once, and not when anybody comes in the last moment. Connections, machines and the time are the test's.

import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import { pino } from 'pino'
import { createFakeAgent, type FakeAgent } from '../../tests/support/fake-agent.ts'
import { aDriver, stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { MemorySnapshots } from '../hypervisors/driver.ts'
import type { ImageService } from '../images/types.ts'
import { createInstanceService, type InstanceContext, type InstanceEntry, type InstanceRecord } from '../instances/index.ts'
import { startAutoStandby } from './auto-standby.ts'

type HostConnection = Awaited<ReturnType<InstanceContext['hostConnections']>>[number]

const TIMEOUT_MS = 5_000
const policy = { enabled: true, idleTimeoutMs: TIMEOUT_MS, ignoredSources: ['10.0.0.0/8'], ignoredPorts: [9100] } as const
const ports = [80, 9100].map((guestPort, index) => ({
  ...{ guestPort, hostPort: 8000 + index, protocol: 'tcp', hostAddress: '0.0.0.0', automatic: false },
})) as NonNullable<InstanceRecord['network']>['ports']

const wellAgent = { workload: { state: 'running' } } as Awaited<ReturnType<FakeAgent['health']>>

interface World extends TestContext {
  readonly service: ReturnType<typeof createInstanceService>
  /** What the host's kernel lists. */
  connections: HostConnection[] | Error
  /** How often it was asked. */
  looks: number
  /** Instances whose guest was made to stand still, in order. */
  readonly paused: InstanceEntry[]
  /** What becomes of saving the memory of one. */
  save: (entry: InstanceEntry) => Promise<void>
  running(change?: Partial<InstanceRecord>): Promise<InstanceEntry>
  agentOf(entry: InstanceEntry): FakeAgent
  /** Lets so many seconds go by, with the look of each. */
  pass(seconds: number): Promise<void>
}

async function startWorld(): Promise<World> {
  mock.timers.enable({ apis: ['setInterval', 'Date'], now: Date.parse('2026-11-29T08:00:00.000Z') })
  const stopping = new AbortController()
  const saved = new Set<string>()
  const agents = new Map<InstanceEntry, FakeAgent>()
  const byDirectory = (directory: string): InstanceEntry =>
    inner.context.store.entries().find(({ id }) => directory.endsWith(id)) ?? assert.fail(`there is no instance in ${directory}`)
  const memory = {
    suspend: async (_machine, { directory }) => {
      await world.save(byDirectory(directory))
      saved.add(directory)
      return { pausedMs: 1, memoryBytes: 1 }
    },
    discardMemory: async () => undefined,
    holdsMemory: async (directory) => saved.has(directory),
  } as Partial<MemorySnapshots> as MemorySnapshots
  const images = { byDigest: () => ({ rootfsPath: '/rootfs' }) } as Partial<Record<keyof ImageService, unknown>> as ImageService
  const inner: TestContext = await testContext({
    images,
    stopping: stopping.signal,
    drivers: new Map([['qemu', aDriver('qemu', { memory, partOf: () => undefined })]]),
    hostConnections: async () => {
      world.looks += 1
      if (world.connections instanceof Error) throw world.connections
      return world.connections
    },
  })
  const job = startAutoStandby(inner.context, pino({ level: 'silent' }))
  const world: World = {
    ...inner,
    service: createInstanceService(inner.context, () => undefined),
    connections: [],
    looks: 0,
    paused: [],
    save: () => Promise.resolve(),
    async running(change = {}) {
      const [now, process] = [new Date().toISOString(), { pid: 1, startTicks: '0', bootId: '' }]
      const ready = { programStartedAt: now, agentReadyAt: now, runningSince: now, process }
      const network = { kind: 'user' as const, mac: '02:00:00:00:00:01', ports }
      const entry = await inner.add({ autoStandby: policy, network, ...ready, ...change })
      entry.machine = {
        ...stateOnly('running'),
        pause: async () => void world.paused.push(entry),
        resume: () => Promise.resolve(),
        kill: () => Promise.resolve(),
      }
      const agent = createFakeAgent()
      agent.health = () => Promise.resolve(wellAgent)
      agent.freeze = () => Promise.resolve(true)
      agent.thaw = () => Promise.resolve()
      agents.set(entry, agent)
      entry.agent = Promise.resolve(agent)
      return entry
    },
    agentOf: (entry) => agents.get(entry) ?? assert.fail('it has an agent'),
    async pass(seconds) {
      for (let second = 0; second < seconds; second += 1) {
        const before = world.looks
        mock.timers.tick(1_000)
        await until('the look is over', () => world.looks > before)
        await turns()
      }
    },
    async [Symbol.asyncDispose]() {
      stopping.abort(new HypemanError('canceled', 'the test is over'))
      await job[Symbol.asyncDispose]()
      mock.timers.reset()
      await inner[Symbol.asyncDispose]()
    },
  }
  return world
}

/** What follows from a look without waiting for a disk. */
async function turns(): Promise<void> {
  for (let turn = 0; turn < 5; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

const from = (address: string, port = 8000, endedMs: number | null = null): HostConnection => ({
  ...{ local: { address: '192.168.1.2', port }, remote: { address, port: 50_000 }, endedMs },
})
const untilAsleep = (entry: InstanceEntry): Promise<void> =>
  until('it is in standby', () => entry.holdsMemory && entry.record.process === null)
const stateOf = async (entry: InstanceEntry): Promise<string> => (await entry.observe()).state
const statusOf = async (world: World, entry: InstanceEntry) => (await world.service.autoStandbyStatus(entry.id)).status

test('one that nobody uses goes to standby when its timeout is over; one without a policy, or whose policy is off, never', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  const others = [await world.running({ autoStandby: null }), await world.running({ autoStandby: { ...policy, enabled: false } })]
  await world.pass(5)
  assert.deepEqual(world.paused, [])
  assert.equal((await world.service.autoStandbyStatus(entry.id)).countdown_remaining, '1s')
  await world.pass(1)
  await untilAsleep(entry)
  assert.deepEqual(world.paused, [entry])
  assert.deepEqual([await stateOf(entry), await statusOf(world, entry)], ['Standby', 'ineligible'])
  for (const other of others) assert.equal(await stateOf(other), 'Running')
})

test('a connection keeps it awake until the timeout after its end; one from an ignored network or to an ignored port does not', async () => {
  await using world = await startWorld()
  const [used, ignoring] = [
    await world.running(),
    await world.running({ network: { kind: 'user', mac: '02:00:00:00:00:02', ports: ports.slice(1) } }),
  ]
  world.connections = [from('192.168.1.9'), from('10.1.2.3'), from('192.168.1.9', 8001)]
  await world.pass(6)
  await untilAsleep(ignoring)
  const { status, active_inbound_connections: count } = await world.service.autoStandbyStatus(used.id)
  assert.deepEqual([status, count], ['active', 1])
  await world.pass(10)
  world.connections = []
  await world.pass(5)
  assert.deepEqual(world.paused, [ignoring])
  await world.pass(1)
  await untilAsleep(used)
})

test('a connection that was over before anybody looked counts from its end', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  await world.pass(4)
  world.connections = [from('192.168.1.9', 8000, 500)]
  await world.pass(1)
  world.connections = []
  await world.pass(4)
  assert.deepEqual(world.paused, [])
  assert.ok((await world.service.autoStandbyStatus(entry.id)).last_inbound_activity_at?.endsWith('08:00:04.500Z'))
  await world.pass(1)
  await untilAsleep(entry)
})

test('a health check from the host keeps nobody awake, and somebody who has its port after it does', async () => {
  await using world = await startWorld()
  const [checked, used] = [await world.running(), await world.running()]
  const probe = checked.idle.ownProbes.begin(50_000)
  used.idle.ownProbes.begin(50_000)[Symbol.dispose]()
  world.connections = [from('127.0.0.1')]
  await world.pass(3)
  probe[Symbol.dispose]()
  world.connections = [from('127.0.0.1', 8000, 100)]
  await world.pass(3)
  await untilAsleep(checked)
  assert.deepEqual(world.paused, [checked])
  assert.equal((await world.service.autoStandbyStatus(used.id)).last_inbound_activity_at?.slice(11, 19), '08:00:03')
})

test('who comes while the guest is asked whether it is there calls the standby off', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  const asked = Promise.withResolvers<void>()
  world.agentOf(entry).health = async () => {
    world.connections = [from('192.168.1.9')]
    asked.resolve()
    return wellAgent
  }
  await world.pass(6)
  await asked.promise
  await until('the attempt is over', () => !world.context.locks.isHeld(entry.id))
  assert.deepEqual([world.paused, await stateOf(entry), await statusOf(world, entry)], [[], 'Running', 'active'])
})

test('a hold puts it off by its timeout, also in the last moment; once nothing calls it off any more a hold is refused', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  await world.pass(4)
  const held = await world.service.holdAwake(entry.id)
  assert.deepEqual([held.status, held.hold_until], ['idle_countdown', '2026-11-29T08:00:09.000Z'])
  await world.pass(4)
  world.agentOf(entry).health = async () => {
    await world.service.holdAwake(entry.id)
    return wellAgent
  }
  await world.pass(1)
  await until('the attempt is over', () => world.looks > 9 && !world.context.locks.isHeld(entry.id))
  assert.deepEqual(world.paused, [])
  assert.equal((await world.service.autoStandbyStatus(entry.id)).hold_until, '2026-11-29T08:00:14.000Z')

  world.agentOf(entry).health = () => Promise.resolve(wellAgent)
  const refused = Promise.withResolvers<unknown>()
  world.save = async () => void world.service.holdAwake(entry.id).then(refused.resolve, refused.resolve)
  await world.pass(5)
  assert.ok(isHypemanError(await refused.promise, 'instance_in_standby'))
  await untilAsleep(entry)
  await assert.rejects(world.service.holdAwake(entry.id), (error) => isHypemanError(error, 'instance_in_standby'))
})

test('where it would not go to standby anyway, a hold holds nothing and says how it is', async () => {
  await using world = await startWorld()
  const [without, stopped] = [await world.running({ autoStandby: null }), await world.add({ autoStandby: policy })]
  assert.deepEqual([(await world.service.holdAwake(without.id)).hold_until, without.idle.holdUntilMs], [null, null])
  assert.equal((await world.service.holdAwake(stopped.id)).reason, 'instance_not_running')
})

test('a stream of the API into the guest is a use, until it ends', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  const use = world.service.occupy(entry.id)
  await world.pass(10)
  assert.equal((await world.service.autoStandbyStatus(entry.id)).active_inbound_connections, 1)
  use[Symbol.dispose]()
  use[Symbol.dispose]()
  await world.pass(5)
  assert.deepEqual([world.paused, entry.idle.users], [[], 0])
  await world.pass(1)
  await untilAsleep(entry)
})

test('an attempt that fails leaves it running, and the next is a minute later', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  let attempts = 0
  world.save = async () => {
    attempts += 1
    if (attempts === 1) throw new HypemanError('storage_full', 'no space is left')
  }
  await world.pass(6)
  await until('the attempt has failed', () => entry.idle.retryAtMs !== null && !world.context.locks.isHeld(entry.id))
  assert.deepEqual([await stateOf(entry), entry.suspending], ['Running', false])
  assert.equal((await world.service.autoStandbyStatus(entry.id)).countdown_remaining, '1m0s')
  await world.pass(59)
  assert.equal(attempts, 1)
  await world.pass(1)
  await untilAsleep(entry)
})

test('while an operation on it is under way nothing is begun; what that leaves is looked at anew', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  const held = await world.context.locks.acquire(entry.id, { waitMs: 1_000, what: 'the instance' })
  await world.pass(10)
  assert.equal(entry.idle.isRequested, false)
  await world.context.store.update(entry, { autoStandby: { ...policy, idleTimeoutMs: 60_000 } })
  held[Symbol.dispose]()
  await world.pass(10)
  assert.deepEqual(world.paused, [])
})

test('where connections can not be seen nothing goes to standby, and the status says so; afterwards it goes on', async () => {
  await using world = await startWorld()
  const entry = await world.running()
  world.connections = new Error('no such file')
  await world.pass(10)
  const { status, reason } = await world.service.autoStandbyStatus(entry.id)
  assert.deepEqual([status, reason, world.paused], ['error', 'observer_error', []])
  world.connections = []
  await world.pass(6)
  await untilAsleep(entry)
})

test('many instances cost one look at the connections, and go a few at a time', async () => {
  await using world = await startWorld()
  const entries = await Promise.all(Array.from({ length: 200 }, () => world.running()))
  let [underway, most] = [0, 0]
  world.save = async () => {
    most = Math.max(most, (underway += 1))
    await turns()
    underway -= 1
  }
  await world.pass(5)
  assert.equal(world.looks, 5)
  await world.pass(1)
  await until('all are in standby', () => entries.every((entry) => entry.holdsMemory && entry.record.process === null), 60_000)
  // A turn that takes long is no longer counted, as on a host that stands still for a moment.
  assert.ok(most >= 1 && most < 50, `${most} at once`)
})
