// A wait ends at the state, where nothing moves any more, at its time, with its caller, or with the instance.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import type { InstanceState } from '../api/actions.ts'
import { isHypemanError } from '../api/errors.ts'
import { lockInstance } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { attach } from './machine.ts'
import { waitForState, type WaitResult } from './wait.ts'

const now = new Date().toISOString()
const LONG_MS = 30_000

function waited(
  world: TestContext,
  entry: InstanceEntry,
  state: InstanceState,
  timeoutMs = LONG_MS,
  signal = AbortSignal.any([]),
): Promise<WaitResult> {
  return waitForState(world.context, entry, state, timeoutMs, signal)
}

async function booting(world: TestContext): Promise<InstanceEntry> {
  const entry = await world.add()
  entry.machine = stateOnly('running')
  return entry
}

function becomesRunning(world: TestContext, entry: InstanceEntry): void {
  entry.record = { ...entry.record, programStartedAt: now, agentReadyAt: now }
  world.context.events.state(entry.id, 'Running', 'ready')
}

test('an instance that is in the state already is not waited for', async () => {
  await using world = await testContext()
  assert.deepEqual(await waited(world, await world.add(), 'Stopped'), { state: 'Stopped', timedOut: false })
})

test('a wait ends with the event that brings the state, for each who waits', async () => {
  await using world = await testContext()
  const entry = await booting(world)
  const waits = [1, 2, 3].map(() => waited(world, entry, 'Running'))
  const started = performance.now()
  becomesRunning(world, entry)
  for (const result of await Promise.all(waits)) assert.deepEqual(result, { state: 'Running', timedOut: false })
  assert.ok(performance.now() - started < 900, 'it did not wait for its next look')
})

test('a wait for the end of a machine ends when the reason is on record', async () => {
  await using world = await testContext()
  const ended = Promise.withResolvers<{ code: null; reason: string }>()
  const machine = { ...stateOnly('running'), exited: ended.promise }
  const entry = await world.add({ process: machine.process })
  attach(world.context, entry, machine)
  const waiting = waited(world, entry, 'Stopped').then(({ state }) => ({ state, exit: entry.record.exit?.message }))
  {
    using _flow = await lockInstance(world.context, entry)
    ended.resolve({ code: null, reason: 'killed' })
    await machine.exited
    world.context.events.state(entry.id, 'Stopped', 'a nudge')
    assert.equal((await entry.observe()).state, 'Stopped')
  }
  assert.deepEqual(await waiting, { state: 'Stopped', exit: 'the VM ended before its program was started' })
})

test('a change without an event is seen all the same', async () => {
  await using world = await testContext()
  const entry = await booting(world)
  const waiting = waited(world, entry, 'Shutdown')
  entry.machine = stateOnly('shutdown')
  assert.deepEqual(await waiting, { state: 'Shutdown', timedOut: false })
})

test('another state in which an instance rests ends the wait; one on its way to somewhere does not', async () => {
  await using world = await testContext()
  const entry = await world.add()
  assert.deepEqual(await waited(world, entry, 'Running'), { state: 'Stopped', timedOut: false })
  const ready = Promise.withResolvers<void>()
  entry.readying = ready.promise
  const waiting = waited(world, entry, 'Running')
  entry.machine = stateOnly('running')
  becomesRunning(world, entry)
  assert.equal((await waiting).state, 'Running')
  ready.resolve()
})

test('why the state is Unknown is told', async () => {
  await using world = await testContext()
  const entry = await world.add()
  entry.machine = stateOnly('failing')
  assert.match((await waited(world, entry, 'Running')).error ?? '', /does not answer/)
})

test('when the time is over, when the caller goes and when the server stops, what is seen then is told', async () => {
  const stopping = new AbortController()
  await using world = await testContext({ stopping: stopping.signal })
  const entry = await booting(world)
  const over = { state: 'Initializing', timedOut: true } as const
  assert.deepEqual(await waited(world, entry, 'Running', 20), over)
  assert.deepEqual(await waited(world, entry, 'Running', 0), over)
  const leaving = new AbortController()
  const left = waited(world, entry, 'Running', LONG_MS, leaving.signal)
  leaving.abort()
  assert.deepEqual(await left, over)
  const stopped = waited(world, entry, 'Running')
  stopping.abort()
  assert.deepEqual(await stopped, over)
})

test('an instance that is deleted meanwhile is not found any more', async () => {
  await using world = await testContext()
  const entry = await booting(world)
  const waiting = waited(world, entry, 'Running')
  world.context.store.forget(entry)
  world.context.events.state(entry.id, 'Deleted', 'deleted')
  await assert.rejects(waiting, (error) => isHypemanError(error, 'not_found') && error.message.includes(entry.record.name))
})
