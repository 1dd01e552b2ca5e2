import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AgentClient } from '../agent/contract.ts'
import { NOT_DONE } from '../agent/index.ts'
import { isHypemanError } from '../api/errors.ts'
import type { Hypervisor, MemorySnapshots } from '../hypervisors/driver.ts'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { identityOf } from '../platform/process.ts'
import { flowOn } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { makeReady } from './readiness.ts'
import type { InstanceRecord } from './record.ts'
import { viewOf } from './view.ts'

test("a fork's memory, which has the identity of its source, is gone before the record says that the fork has its own", async () => {
  const consumed = Promise.withResolvers<void>()
  const asked = Promise.withResolvers<void>()
  await using guest = await startedGuest(
    { identityDue: 'fork' },
    {
      async consumeMemory() {
        asked.resolve()
        await consumed.promise
      },
    },
  )
  const { context, entry } = guest
  entry.holdsMemory = true
  entry.agent = Promise.resolve({ identity: async () => [] } as Partial<AgentClient> as AgentClient)

  const ready = makeReady(context, entry, flowOn(context, entry.id, 'instance.fork'))
  await asked.promise
  await entry.writing
  assert.equal(entry.record.identityDue, 'fork')
  consumed.resolve()
  assert.equal(await ready, true)
  assert.deepEqual([entry.record.identityDue, entry.holdsMemory], [null, false])
})

test('a restored guest keeps the image that it came from until the record says that it runs', async () => {
  await using guest = await startedGuest({ identityDue: 'restore' }, { consumeMemory: async () => assert.fail('the image is used up') })
  const { context, entry } = guest
  entry.holdsMemory = true
  entry.agent = Promise.resolve({ identity: async () => [] } as Partial<AgentClient> as AgentClient)
  context.store.update = async () => {
    throw new Error('the disk fails')
  }
  await assert.rejects(makeReady(context, entry, flowOn(context, entry.id, 'instance.restore')), /the disk fails/)
  assert.equal(entry.holdsMemory, true)
})

test('a fork that could not be given its variables or secret files says whether its agent is too old, or what failed', async () => {
  for (const [name, message, code] of [
    ['environment', NOT_DONE, 'not_supported'],
    ['secrets', NOT_DONE, 'not_supported'],
    ['secrets', 'no space left on device', 'guest_unreachable'],
  ] as const) {
    const driver = { name: 'qemu' } as Partial<Hypervisor> as Hypervisor
    await using host = await testContext({ drivers: new Map([['qemu', driver]]) })
    const entry = await host.add({ identityDue: 'fork', programStartedAt: new Date().toISOString() })
    entry.holdsMemory = true
    const steps = [{ name, ms: 0, ok: false, message }]
    entry.agent = Promise.resolve({ identity: async () => steps } as Partial<AgentClient> as AgentClient)
    const ready = makeReady(host.context, entry, flowOn(host.context, entry.id, 'instance.fork'))
    await assert.rejects(ready, (error) => isHypemanError(error, code))
  }
})

test('a memory image that is used up, but whose files can not all be removed, does not cost the guest', async () => {
  await using guest = await startedGuest(
    { identityDue: 'restore' },
    {
      consumeMemory: async () => {
        throw new Error('the disk fails')
      },
      holdsMemory: async () => false,
    },
  )
  const { context, entry } = guest
  entry.holdsMemory = true
  entry.agent = Promise.resolve({ identity: async () => [] } as Partial<AgentClient> as AgentClient)
  assert.equal(await makeReady(context, entry, flowOn(context, entry.id, 'instance.restore')), true)
  assert.deepEqual([entry.holdsMemory, entry.record.identityDue], [false, null])
})

test('a fork that has its identity and can not say so on disk runs all the same', async () => {
  let held = true
  await using guest = await startedGuest(
    { identityDue: 'fork' },
    {
      consumeMemory: async () => {
        held = false
      },
      holdsMemory: async () => held,
    },
  )
  const { context, entry } = guest
  entry.holdsMemory = true
  entry.agent = Promise.resolve({ identity: async () => [] } as Partial<AgentClient> as AgentClient)
  context.store.update = async () => {
    throw new Error('the disk fails')
  }
  assert.equal(await makeReady(context, entry, flowOn(context, entry.id, 'instance.restore')), true)
  assert.deepEqual([entry.holdsMemory, entry.record.identityDue], [false, null])
})

test('a guest whose VMM has ended by then is not said to run, and keeps its image', async () => {
  const memory = { consumeMemory: async () => assert.fail('the image is used up') } as Partial<MemorySnapshots> as MemorySnapshots
  const driver = { name: 'qemu', memory } as Partial<Hypervisor> as Hypervisor
  for (const identityDue of ['fork', 'restore'] as const) {
    await using host = await testContext({ drivers: new Map([['qemu', driver]]) })
    const { context } = host
    const entry = await host.add({ identityDue, programStartedAt: new Date().toISOString() })
    entry.holdsMemory = true
    // Its pid is another's.
    entry.machine = stateOnly('running')
    entry.agent = Promise.resolve({ identity: async () => [] } as Partial<AgentClient> as AgentClient)
    await assert.rejects(makeReady(context, entry, flowOn(context, entry.id, 'instance.restore')), /ended as soon as its guest was ready/)
    assert.equal(entry.holdsMemory, true)
  }
})

for (const skipGuestAgent of [false, true])
  test(`a fork whose guest can not take its identity ${skipGuestAgent ? 'runs and is marked as unsafe if nobody was to wait for its agent' : 'is never Running'}`, async () => {
    await using guest = await startedGuest({ identityDue: 'fork', skipGuestAgent })
    const { context, entry } = guest
    entry.holdsMemory = true
    let thawed = false
    entry.agent = Promise.resolve({
      identity: async () => [{ name: 'entropy', ms: 1, ok: false, message: 'no device' }],
      async thaw() {
        thawed = true
      },
    } as Partial<AgentClient> as AgentClient)
    const said: string[] = []
    context.events.subscribe((_id, event) => void (event.type === 'state' && said.push(event.message)))
    const ready = makeReady(context, entry, flowOn(context, entry.id, 'instance.fork'))
    if (!skipGuestAgent) {
      await assert.rejects(ready, /could not take its identity \(entropy: no device\), so it is not safe to run/)
      assert.deepEqual([(await entry.observe()).state, thawed, entry.record.identityDue], ['Initializing', false, 'fork'])
      return
    }
    assert.equal(await ready, true)
    assert.deepEqual([(await entry.observe()).state, thawed], ['Running', true])
    assert.match((await viewOf(entry)).unsafe_fork ?? '', /entropy: no device/)
    assert.match(said.at(-1) ?? '', /^qemu, UNSAFE: .*entropy: no device/)
  })

test('a fork that has taken its identity is not marked as unsafe, also if nobody was to wait for its agent', async () => {
  await using guest = await startedGuest({ identityDue: 'fork', skipGuestAgent: true })
  const { context, entry } = guest
  const steps = [
    { name: 'entropy', ms: 1, ok: true },
    { name: 'ssh-keys', ms: 1, ok: true, warning: 'a key of a kind that is not known is kept' },
  ]
  entry.agent = Promise.resolve({ identity: async () => steps } as Partial<AgentClient> as AgentClient)
  const said: string[] = []
  context.events.subscribe((_id, event) => void (event.type === 'state' && said.push(event.message)))
  assert.equal(await makeReady(context, entry, flowOn(context, entry.id, 'instance.fork')), true)
  assert.deepEqual(
    [(await entry.observe()).state, (await viewOf(entry)).unsafe_fork, said.at(-1)],
    ['Running', undefined, 'qemu, agent ready'],
  )
})

test('a fork whose agent never answers is unsafe in time, if nobody was to wait for it', async () => {
  await using guest = await startedGuest({ identityDue: 'fork', skipGuestAgent: true })
  const { context, entry } = guest
  entry.agent = Promise.withResolvers<AgentClient>().promise
  const settings = { ...context.settings, restoreTimeoutMs: 20 }
  assert.equal(await makeReady({ ...context, settings }, entry, flowOn(context, entry.id, 'instance.fork')), true)
  assert.match(entry.record.unsafeFork ?? '', /did not answer within 0\.02 s.*whether its programs run is not known/)
})

/** A guest whose VMM runs, as this process does, and whose program was started before: what is due is told by the record. */
async function startedGuest(
  record: Partial<InstanceRecord>,
  memory: Partial<MemorySnapshots> = { consumeMemory: async () => undefined },
): Promise<Pick<TestContext, 'context'> & { readonly entry: InstanceEntry } & AsyncDisposable> {
  const driver = { name: 'qemu', memory } as Partial<Hypervisor> as Hypervisor
  await using undo = new AsyncDisposableStack()
  const host = undo.use(await testContext({ drivers: new Map([['qemu', driver]]) }))
  const entry = await host.add({ programStartedAt: new Date().toISOString(), ...record })
  entry.machine = { ...stateOnly('running'), process: identityOf(process.pid) ?? assert.fail() }
  const held = undo.move()
  return { context: host.context, entry, [Symbol.asyncDispose]: () => held.disposeAsync() }
}
