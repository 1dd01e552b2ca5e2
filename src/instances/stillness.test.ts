import assert from 'node:assert/strict'
import { existsSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import type { AgentClient } from '../agent/contract.ts'
import { HypemanError } from '../api/errors.ts'
import type { InstanceEvent } from '../api/events.ts'
import { instanceFiles } from '../files/layout.ts'
import type { Hypervisor, MemorySnapshots } from '../hypervisors/driver.ts'
import { identityOf } from '../platform/process.ts'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import { flowOn, lockInstance } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { captureMemory, endStillness, stillnessOf } from './stillness.ts'

const broken = (): never => {
  throw new HypemanError('guest_unreachable', 'the connection broke')
}

interface Scene {
  readonly entry: InstanceEntry
  /** What was asked of the guest's agent and of the driver, in order. */
  readonly asked: string[]
  readonly events: InstanceEvent[]
  readonly mark: string
}

/** A running instance whose agent does what the test says. */
async function runningInstance(
  host: TestContext,
  asked: string[],
  agent: Partial<Pick<AgentClient, 'freeze' | 'thaw'>> = {},
  record: Parameters<TestContext['add']>[0] = {},
): Promise<Scene> {
  const now = new Date().toISOString()
  const entry = await host.add({ programStartedAt: now, agentReadyAt: now, runningSince: now, ...record })
  entry.machine = { ...stateOnly('running'), process: identityOf(process.pid) ?? assert.fail() }
  entry.agent = Promise.resolve({
    async freeze() {
      asked.push('freeze')
      return true
    },
    async thaw() {
      asked.push('thaw')
    },
    ...agent,
  } as Partial<AgentClient> as AgentClient)
  const events: InstanceEvent[] = []
  host.context.events.subscribe((_id, event) => void events.push(event))
  return { entry, asked, events, mark: path.join(host.context.layout.instance(entry.id), instanceFiles.frozen) }
}

function stepsOf(events: readonly InstanceEvent[]): string[] {
  return events.flatMap((event) => (event.type === 'step' ? [`${event.step}${event.error === undefined ? '' : ' failed'}`] : []))
}

test('programs stand still from before a pause until after it, and what says so to the next server is gone then', async () => {
  await using host = await testContext()
  const { entry, asked, events, mark } = await runningInstance(host, [])
  {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), 'Running')
    assert.deepEqual([asked, existsSync(mark)], [[], false])
    await still.freeze()
    assert.deepEqual([asked, existsSync(mark)], [['freeze'], true])
    still.thaw()
    still.thaw()
  }
  assert.deepEqual([asked, existsSync(mark)], [['freeze', 'thaw'], false])
  assert.deepEqual(stepsOf(events), ['freeze', 'thaw', 'programs-still'])
})

test('programs that are in standby then stay as they are', async () => {
  await using host = await testContext()
  const { entry, asked, mark } = await runningInstance(host, [])
  {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'instance.standby'), 'Running')
    await still.freeze()
    await still.keep()
  }
  assert.deepEqual([asked, existsSync(mark)], [['freeze'], false])
})

test('a guest without agent gate and one that is paused are asked for nothing', async () => {
  await using host = await testContext()
  const { entry: without, asked } = await runningInstance(host, [], {}, { skipGuestAgent: true })
  const { entry: paused } = await runningInstance(host, asked)
  for (const [entry, state] of [[without, 'Running'] as const, [paused, 'Paused'] as const]) {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'instance.standby'), state)
    await still.freeze()
  }
  assert.deepEqual(asked, [])
})

test('programs that could not be told to stand still are told to go on, since the answer may have been lost', async () => {
  await using host = await testContext()
  const { entry, asked, mark } = await runningInstance(host, [], { freeze: async () => broken() })
  await assert.rejects(async () => {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), 'Running')
    await still.freeze()
  }, /the connection broke/)
  assert.deepEqual([asked, existsSync(mark)], [['thaw'], false])
})

test("the agent of an older version is let be, and the snapshot's events say what that means", async () => {
  await using host = await testContext()
  const { entry, events } = await runningInstance(host, [], { freeze: async () => false })
  {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), 'Running')
    await still.freeze()
  }
  const [note] = events.flatMap((event) => (event.type === 'step' && event.step === 'programs-run' ? [event.note] : []))
  assert.match(note ?? '', /older than the server/)
})

test('programs that can not be made to go on are told of, and tried again until they do', async () => {
  let answers = false
  await using host = await testContext({ connectAgent: async () => broken() })
  const asked: string[] = []
  const thaw = async (): Promise<void> => {
    asked.push('thaw')
    if (!answers) broken()
  }
  const { entry, events, mark } = await runningInstance(host, asked, { thaw })
  {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), 'Running')
    await still.freeze()
  }
  assert.deepEqual(stepsOf(events), ['freeze', 'thaw failed'])
  assert.deepEqual([(await entry.observe()).state, existsSync(mark)], ['Paused', true])
  answers = true
  await until('its programs go on', async () => (await entry.observe()).state === 'Running')
  assert.equal(existsSync(mark), false)
})

test('a machine that could not be made to run again is resumed before its programs are told to go on', async () => {
  await using host = await testContext()
  const { entry, asked, mark } = await runningInstance(host, [])
  const machine = { ...stateOnly('paused'), resume: async () => void asked.push('resume') }
  entry.machine = machine
  writeFileSync(mark, '')
  await endStillness(host.context, entry)
  await until('its programs go on', () => !entry.standsStill)
  assert.deepEqual(asked, ['resume', 'thaw'])
})

test('an instance that is busy when its programs are to go on is tried again', async () => {
  const logged: string[] = []
  await using host = await testContext({ log: pino({}, { write: (line: string) => void logged.push(line) }) })
  const { entry, asked, mark } = await runningInstance(host, [])
  writeFileSync(mark, '')
  {
    using _operation = await lockInstance(host.context, entry)
    await endStillness(host.context, entry)
    await until('it was found busy', () => logged.some((line) => line.includes('could not be made to go on')))
    assert.deepEqual(asked, [])
  }
  await until('its programs go on', () => !entry.standsStill)
  assert.deepEqual(asked, ['thaw'])
})

test('what ended meanwhile is not told to go on for ever', async () => {
  await using host = await testContext()
  const { entry, events } = await runningInstance(host, [], { thaw: async () => broken() })
  {
    await using still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), 'Running')
    await still.freeze()
    entry.machine = undefined
  }
  assert.deepEqual([stepsOf(events), entry.standsStill], [['freeze'], false])
})

test('a server that finds programs standing still has them go on, and leaves all others alone', async () => {
  await using host = await testContext()
  const { entry, asked } = await runningInstance(host, [])
  await endStillness(host.context, entry)
  assert.deepEqual([asked, entry.standsStill], [[], false])
  // The last server ended between the two.
  const still = stillnessOf(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), 'Running')
  await still.freeze()
  await endStillness(host.context, entry)
  await until('its programs go on', () => !entry.standsStill)
  assert.deepEqual(asked, ['freeze', 'thaw'])
})

for (const tellsPause of [true, undefined])
  test(`a driver that ${tellsPause === true ? 'tells when it pauses has programs stand still for that' : 'does not tell when it pauses has them stand still for all of its work'}`, async () => {
    const asked: string[] = []
    const memory = {
      tellsPause,
      async capture(_machine, _spec, _target, _signal, around) {
        asked.push('begins')
        await around?.before()
        asked.push('pauses')
        around?.after()
        asked.push('ends')
        return { pausedMs: 1, memoryBytes: 1 }
      },
    } as Partial<MemorySnapshots> as MemorySnapshots
    const driver = { name: 'qemu', memory } as Partial<Hypervisor> as Hypervisor
    const images = { byDigest: () => ({ rootfsPath: '/rootfs' }) } as never
    await using host = await testContext({ drivers: new Map([['qemu', driver]]), images })
    const { entry } = await runningInstance(host, asked)
    await captureMemory(host.context, entry, flowOn(host.context, entry.id, 'snapshot.create'), '/target')
    const inTurn = asked.filter((one) => one !== 'ends')
    assert.deepEqual(inTurn, tellsPause === true ? ['begins', 'freeze', 'pauses', 'thaw'] : ['freeze', 'begins', 'pauses', 'thaw'])
  })
