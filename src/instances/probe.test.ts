// The proof that a guest's agent lives: an answer is one, an instance without agent needs none, and who asks may stop waiting.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createFakeAgent } from '../../tests/support/fake-agent.ts'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import type { AgentClient } from '../agent/contract.ts'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { InstanceEntry } from './entry.ts'
import { proveAgent } from './probe.ts'

const forever = AbortSignal.any([])
const health = { version: '1', protocol: 1, bootId: 'b', generation: 0, uptimeMs: 1, workload: { state: 'running' } } as const

async function withAgent(world: TestContext, answer: AgentClient['health']): Promise<InstanceEntry> {
  const entry = await world.add()
  entry.machine = stateOnly('running')
  entry.agent = Promise.resolve({ ...createFakeAgent(), health: answer })
  return entry
}

test('an agent that answers is proof', async () => {
  await using world = await testContext()
  await proveAgent(world.context, await withAgent(world, () => Promise.resolve(health)), forever)
})

test('an instance without agent needs no proof, and is not asked', async () => {
  await using world = await testContext()
  await proveAgent(world.context, await world.add({ skipGuestAgent: true }), forever)
})

test('an instance without a running VMM can not prove anything', async () => {
  await using world = await testContext()
  await assert.rejects(proveAgent(world.context, await world.add(), forever), (error) => isHypemanError(error, 'guest_unreachable'))
})

test("the agent's own failure is passed on, and so is the reason of who stops waiting", async () => {
  await using world = await testContext()
  const failing = await withAgent(world, () => Promise.reject(new HypemanError('internal_error', 'out of order')))
  await assert.rejects(proveAgent(world.context, failing, forever), /out of order/)
  const asked = Promise.withResolvers<void>()
  const silent = await withAgent(world, (signal) => {
    asked.resolve()
    return new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error)))
  })
  const leaving = new AbortController()
  const proof = proveAgent(world.context, silent, leaving.signal)
  await asked.promise
  leaving.abort(new HypemanError('canceled', 'the server is stopping'))
  await assert.rejects(proof, (error) => isHypemanError(error, 'canceled'))
})
