// What is told of an instance when its guest has nothing to say.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import type { AgentClient } from '../agent/contract.ts'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { Machine } from '../hypervisors/driver.ts'
import { withinLimit } from './agent-limit.ts'
import type { InstanceEntry } from './entry.ts'
import { statsOf } from './stats.ts'

const never = new Promise<never>(() => undefined)

async function untilAborted(signal: AbortSignal): Promise<never> {
  signal.throwIfAborted()
  await once(signal, 'abort')
  throw signal.reason
}

/** A Running instance whose VMM is this very process. */
async function running(world: TestContext, agent: Promise<AgentClient>): Promise<InstanceEntry> {
  const now = new Date().toISOString()
  const entry = await world.add({ programStartedAt: now, agentReadyAt: now })
  entry.machine = { ...stateOnly('running'), process: { pid: process.pid, startTicks: '0', bootId: '' } }
  entry.agent = agent
  assert.equal((await entry.observe()).state, 'Running')
  return entry
}

const hasHostsNumbers = async (world: TestContext, entry: InstanceEntry): Promise<void> => {
  const {
    memory_rss_bytes: resident,
    network_rx_bytes: received,
    network_tx_bytes: sent,
  } = await statsOf(world.context, entry, new AbortController().signal, 20)
  assert.ok(resident > 2 ** 20)
  assert.deepEqual([received, sent], [0, 0])
}

test("of a guest whose agent never answers, or is gone, the host's own numbers are told", async () => {
  await using world = await testContext()
  const gone = Promise.reject(new HypemanError('guest_unreachable', 'the agent is gone'))
  gone.catch(() => undefined) // the one who asks is told
  const mute = { stats: untilAborted } as unknown as AgentClient
  for (const agent of [never, gone, Promise.resolve(mute)]) await hasHostsNumbers(world, await running(world, agent))
})

/** A Running instance whose VMM says this of its traffic. */
async function counting(world: TestContext, agent: Promise<AgentClient>, traffic: Machine['traffic']): Promise<InstanceEntry> {
  const entry = await running(world, agent)
  assert.ok(entry.machine !== undefined && traffic !== undefined)
  entry.machine = { ...entry.machine, traffic }
  return entry
}

const { signal: noEnd } = new AbortController()
const network = { receivedBytes: 7, sentBytes: 5 }
const ofGuest = { stats: async () => ({ networkReceivedBytes: 70, networkSentBytes: 50 }) } as unknown as AgentClient

test('what the VMM has counted is told, and its guest is not asked', async () => {
  await using world = await testContext()
  const entry = await counting(world, never, async () => ({ network, disks: { readBytes: 3, writtenBytes: 2 } }))
  const stats = await statsOf(world.context, entry, noEnd, 60_000)
  assert.deepEqual([stats.network_rx_bytes, stats.network_tx_bytes], [7, 5])
  assert.deepEqual([stats.disk_read_bytes, stats.disk_written_bytes], [3, 2])
})

test('where the VMM does not count, is not understood or never answers, the guest is asked, and nothing is told of disks', async () => {
  await using world = await testContext()
  const strange = (): Promise<never> => Promise.reject(new HypemanError('host_unavailable', "the answer can't be understood"))
  for (const traffic of [async () => ({}), strange, untilAborted]) {
    const entry = await counting(world, Promise.resolve(ofGuest), traffic)
    const stats = await statsOf(world.context, entry, noEnd, 20)
    assert.deepEqual([stats.network_rx_bytes, stats.network_tx_bytes], [70, 50])
    assert.equal('disk_read_bytes' in stats || 'disk_written_bytes' in stats, false)
  }
})

test('who goes away before the VMM has answered gets no numbers', async () => {
  await using world = await testContext()
  const entry = await counting(world, never, untilAborted)
  const gone = new AbortController()
  const told = statsOf(world.context, entry, gone.signal, 60_000)
  gone.abort(new Error('nobody waits'))
  await assert.rejects(told, /nobody waits/)
})

test('who goes away before the guest has answered gets no numbers', async () => {
  await using world = await testContext()
  const entry = await running(world, never)
  const gone = new AbortController()
  const told = statsOf(world.context, entry, gone.signal, 60_000)
  gone.abort(new Error('nobody waits'))
  await assert.rejects(told, /nobody waits/)
})

test('what takes longer than its limit is an error that names the guest; other errors, and the end of who asked, are their own', async () => {
  await using world = await testContext()
  const entry = await world.add({ name: 'web' })
  const { signal } = new AbortController()
  await assert.rejects(
    withinLimit(entry, 20, signal, untilAborted),
    (error) => isHypemanError(error, 'guest_unreachable') && /agent of web did not answer within 0\.02 s/.test(error.message),
  )
  await assert.rejects(
    withinLimit(entry, 60_000, signal, () => Promise.reject(new Error('no such path'))),
    /no such path/,
  )
  await assert.rejects(withinLimit(entry, 60_000, AbortSignal.abort(new Error('gone')), untilAborted), /gone/)
})
