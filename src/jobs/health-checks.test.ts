// Health checks are made in their time, one at a time for each instance, and not while it stands still. The guest's answers are the test's, and so is the time.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { mock, test } from 'node:test'
import { pino } from 'pino'
import { createFakeAgent, type FakeAgent } from '../../tests/support/fake-agent.ts'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import type { ProbeAnswer } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import { viewOf, type InstanceEntry, type InstanceRecord } from '../instances/index.ts'
import { startHealthChecks } from './health-checks.ts'

const check = {
  probe: { type: 'tcp', port: 80 },
  ...{ intervalMs: 1_000, timeoutMs: 2_000, startPeriodMs: 0, failureThreshold: 2, successThreshold: 1 },
} as const
const policy = { policy: 'always', backoffMs: 5_000, maxAttempts: 0, stableAfterMs: 600_000 } as const

interface World extends TestContext {
  /** Checks of each instance so far. */
  readonly asked: Map<string, number>
  /** What a probe of an instance says. */
  answer: (entry: InstanceEntry) => Promise<ProbeAnswer>
  running(change?: Partial<InstanceRecord>): Promise<InstanceEntry>
  agentOf(entry: InstanceEntry): FakeAgent
}

async function startWorld(): Promise<World> {
  mock.timers.enable({ apis: ['setInterval', 'Date'], now: Date.parse('2026-11-29T08:00:00.000Z') })
  const stopping = new AbortController()
  const inner = await testContext({ stopping: stopping.signal })
  const asked = new Map<string, number>()
  const agents = new Map<string, FakeAgent>()
  const job = startHealthChecks(inner.context, pino({ level: 'silent' }))
  const world: World = {
    ...inner,
    asked,
    answer: () => Promise.resolve({}),
    async running(change = {}) {
      const [runningSince, process] = [new Date().toISOString(), { pid: 1, startTicks: '0', bootId: '' }]
      const ready = { programStartedAt: runningSince, agentReadyAt: runningSince, runningSince, process }
      const entry = await inner.add({ healthCheck: check, ...ready, ...change })
      entry.machine = stateOnly('running')
      const agent = createFakeAgent()
      agent.probe = (_request, signal) => {
        asked.set(entry.id, (asked.get(entry.id) ?? 0) + 1)
        signal?.throwIfAborted()
        return world.answer(entry)
      }
      agents.set(entry.id, agent)
      entry.agent = Promise.resolve(agent)
      return entry
    },
    agentOf: (entry) => agents.get(entry.id) ?? assert.fail('it has an agent'),
    async [Symbol.asyncDispose]() {
      stopping.abort(new HypemanError('canceled', 'the test is over'))
      await job[Symbol.asyncDispose]()
      mock.timers.reset()
      await inner[Symbol.asyncDispose]()
    },
  }
  return world
}

const tick = (ms = 250): void => mock.timers.tick(ms)

/** Lets time go by until checks have brought the instance to that. */
const becomes = (entry: InstanceEntry, status: string): Promise<void> =>
  until(`it is ${status}`, () => {
    tick()
    return entry.health?.status === status
  })

test('each instance is checked at once, and again after its interval; one without a check never', async () => {
  await using world = await startWorld()
  const [checked, other] = [await world.running(), await world.running({ healthCheck: null })]
  tick()
  await until('it was checked', () => entryIsDone(checked, 1))
  tick(750)
  tick(250)
  await until('it was checked again', () => entryIsDone(checked, 2))
  assert.deepEqual([...world.asked], [[checked.id, 2]])
  assert.equal(other.health, undefined)
})

function entryIsDone({ health }: InstanceEntry, successes: number): boolean {
  return health?.successes === successes
}

test('a check that hangs keeps neither others waiting, nor is another begun beside it', async () => {
  await using world = await startWorld()
  const hanging = Promise.withResolvers<ProbeAnswer>()
  const slow = await world.running()
  const quick = await world.running()
  world.answer = (entry) => (entry === slow ? hanging.promise : Promise.resolve({}))
  tick()
  await until('both are asked', () => world.asked.size === 2)
  for (let round = 2; round <= 5; round += 1)
    await until('the quick one is asked again', () => {
      tick()
      return (world.asked.get(quick.id) ?? 0) >= round
    })
  assert.equal(world.asked.get(slow.id), 1)
  hanging.resolve({ error: 'refused' })
  await until('the slow one has its answer', () => slow.health?.failures === 1)
})

test('failures make it unhealthy, which plans a restart; getting well calls it off', async () => {
  await using world = await startWorld()
  world.answer = () => Promise.resolve({ error: 'connection refused' })
  const entry = await world.running({ restartPolicy: policy })
  await becomes(entry, 'unhealthy')
  await until('a restart is planned', () => entry.record.restarts.nextAttemptAt !== null)
  const shown = await viewOf(entry)
  assert.deepEqual(
    [shown.state, shown.health_status?.status, shown.health_status?.last_error],
    ['Running', 'unhealthy', 'connection refused'],
  )
  assert.equal(shown.restart_status?.last_reason, 'health_check_failed')
  world.answer = () => Promise.resolve({})
  await becomes(entry, 'healthy')
  await until('it is called off', () => entry.record.restarts.nextAttemptAt === null)
})

test('without a policy an unhealthy instance goes on', async () => {
  await using world = await startWorld()
  world.answer = () => Promise.resolve({ error: 'connection refused' })
  const entry = await world.running()
  await becomes(entry, 'unhealthy')
  assert.equal((await viewOf(entry)).restart_status, undefined)
  assert.equal(entry.record.restarts.nextAttemptAt, null)
})

test('while an operation is under way, or the machine stands still, nothing is asked; what was asked before counts for nothing', async () => {
  await using world = await startWorld()
  const answer = Promise.withResolvers<ProbeAnswer>()
  world.answer = () => answer.promise
  const [busy, paused] = [await world.running(), await world.running()]
  paused.machine = stateOnly('paused')
  tick()
  await until('it is asked', () => world.asked.size === 1)
  const held = await world.context.locks.acquire(busy.id, { waitMs: 1_000, what: 'the instance' })
  answer.resolve({ error: 'no answer within 2000 ms' })
  const third = await world.running()
  await becomes(third, 'starting')
  assert.deepEqual([busy.health, paused.health, world.asked.get(paused.id)], [undefined, undefined, undefined])
  held[Symbol.dispose]()
  await until('it is asked again when that is over', () => {
    tick()
    return (world.asked.get(busy.id) ?? 0) > 1 && busy.health !== undefined
  })
})

test('a run that ended while it was checked leaves nothing to the next one', async () => {
  await using world = await startWorld()
  const answer = Promise.withResolvers<ProbeAnswer>()
  world.answer = () => answer.promise
  const entry = await world.running()
  tick()
  await until('it is asked', () => world.asked.get(entry.id) === 1)
  await world.context.store.update(entry, { runningSince: new Date(Date.now() + 1).toISOString() })
  world.answer = () => Promise.resolve({})
  answer.resolve({ error: 'refused' })
  await becomes(entry, 'healthy')
  assert.equal(entry.health?.lastError, null)
})

test('http is judged by its status, a command by its exit code, and an agent that can not check by neither', async () => {
  await using world = await startWorld()
  const probe = { type: 'http', port: 80, path: '/up', scheme: 'http', expectedStatus: 204 } as const
  const http = await world.running({ healthCheck: { ...check, probe } })
  world.answer = () => Promise.resolve({ status: 200 })
  await becomes(http, 'unhealthy')
  assert.equal(http.health?.lastError, 'status 200 instead of 204')
  world.answer = () => Promise.resolve({ status: 204 })
  await becomes(http, 'healthy')
  world.answer = () => Promise.reject(new HypemanError('not_supported', 'the agent is older'))
  await becomes(http, 'unknown')

  const command = { type: 'exec', command: ['check', 'it'], workingDir: '/srv' } as const
  const exec = await world.running({ healthCheck: { ...check, probe: command } })
  const seen: unknown[] = []
  world.agentOf(exec).programs.set('check', async ({ request, print }) => {
    seen.push([request.argv, request.cwd, request.timeoutMs])
    await print('x'.repeat(100_000), 'stderr')
    return { exitCode: 3 }
  })
  await becomes(exec, 'unhealthy')
  assert.deepEqual(seen[0], [['check', 'it'], '/srv', 2_000])
  assert.match(exec.health?.lastError ?? '', /^exit code 3: x{200}$/)
})

test('one whose agent is not to be waited for is asked from the host, by its published port; its agent is not asked at all', async () => {
  await using world = await startWorld()
  let status = 500
  const program = createServer((request, response) => {
    response.statusCode = request.headers.host === '10.0.2.15:80' ? status : 400
    response.end()
  }).listen(0, '127.0.0.1')
  await once(program, 'listening')
  const { port } = program.address() as AddressInfo
  const probe = { type: 'http', port: 80, path: '/', scheme: 'http', expectedStatus: 204 } as const
  const ports = [{ guestPort: 80, hostPort: port, protocol: 'tcp', hostAddress: '0.0.0.0', automatic: false } as const]
  const network = { kind: 'user', mac: '02:00:00:00:00:01', ports } as const
  const entry = await world.running({ skipGuestAgent: true, healthCheck: { ...check, probe }, network })
  await becomes(entry, 'unhealthy')
  assert.equal(entry.health?.lastError, 'status 500 instead of 204')
  status = 204
  await becomes(entry, 'healthy')
  program.closeAllConnections()
  program.close()
  await becomes(entry, 'unhealthy')
  assert.match(entry.health?.lastError ?? '', /ECONNREFUSED/)
  assert.equal(world.asked.size, 0)

  // As one may be after it was restored on another hypervisor.
  const unreachable = await world.running({ skipGuestAgent: true, network })
  await becomes(unreachable, 'unknown')
  assert.match(unreachable.health?.lastError ?? '', /always pass/)
})

test('many instances that are due at once are asked a few at a time, and all of them', async () => {
  await using world = await startWorld()
  let [underway, most] = [0, 0]
  world.answer = async () => {
    most = Math.max(most, (underway += 1))
    await new Promise((resolve) => setImmediate(resolve))
    underway -= 1
    return {}
  }
  const entries: InstanceEntry[] = []
  for (let index = 0; index < 100; index += 1) entries.push(await world.running())
  tick()
  await until('all are checked', () => entries.every((entry) => entry.health?.successes === 1))
  // A turn that takes long is no longer counted, as on a host that stands still for a moment.
  assert.ok(most > 1 && most < 50, `${most} at once`)
})
