// What is told of an instance when its guest has nothing to say.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import type { AgentClient } from '../agent/contract.ts'
import { HypemanError, isHypemanError } from '../api/errors.ts'
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
