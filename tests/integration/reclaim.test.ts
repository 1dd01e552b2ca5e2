// Memory taken back from running guests, on a real server whose machines are stand-ins: what is shown of it, and that it is given back whatever becomes of the server,
// the guest, and what is made of it.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import type { Instance } from '@onkernel/hypeman/resources/instances/instances.js'
import { eventsOf } from '../support/instance-events.ts'
import { contentOf, standIn, startStandInServer } from '../support/stand-in-hypervisor/server.ts'
import { until } from '../support/until.ts'

const server = await startStandInServer()
after(() => server[Symbol.asyncDispose]())

const MIB = 1024 ** 2

/** What the official client's types do not have, the answers do. */
type Seen = Instance & { readonly memory_reclaim?: { readonly asked_bytes: number; readonly hold_until: string } }

async function running(name: string, body: object = {}): Promise<string> {
  const { id } = await server.client.instances.create({ ...standIn, size: '512MB', name, ...body })
  assert.equal((await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })).state, 'Running')
  return id
}

/** What the guest itself knows to have given. */
const givenBy = async (id: string): Promise<number> =>
  ((await contentOf(server, id)).memory as unknown as { readonly balloon: number }).balloon
const askedOf = async (id: string): Promise<number | undefined> =>
  ((await server.client.instances.get(id)) as Seen).memory_reclaim?.asked_bytes

test('guests give what is asked, by their hypervisor, and have it back when the time is over', async () => {
  const [able, unable] = [await running('able'), await running('unable', { hypervisor: 'qemu-microvm' })]
  const answer = await server.client.resources.reclaimMemory({ reclaim_bytes: 100 * MIB, hold_for: '1h', reason: 'a build' })
  assert.deepEqual(
    answer.actions.map(({ instance_name: name, status, applied_reclaim_bytes: applied }) => [name, status, applied]),
    [
      ['able', 'applied', 100 * MIB],
      ['unable', 'unsupported', 0],
    ],
  )
  assert.ok(answer.host_available_bytes > 0)
  assert.equal(await givenBy(able), 100 * MIB)
  // What is asked last counts, not the sum.
  await server.client.resources.reclaimMemory({ reclaim_bytes: 100 * MIB, hold_for: '1s' })
  await until('it is given back', async () => (await givenBy(able)) === 0 && (await askedOf(able)) === undefined)
  const notes = (await eventsOf(server, able)).filter(({ step }) => step === 'balloon').map(({ note }) => note)
  assert.match(
    notes.join('; '),
    /^asked for 100\.0 MB until .*: a build; asked for 100\.0 MB until [^;]*; all of its memory is its own again$/,
  )
  for (const id of [able, unable]) await server.client.instances.delete(id)
})

test('a server that was killed gives back what it took before', async () => {
  const id = await running('kept')
  const taken = await server.client.resources.reclaimMemory({ reclaim_bytes: 64 * MIB, hold_for: '5s' })
  assert.equal(taken.applied_reclaim_bytes, 64 * MIB)
  await server.crash()
  await server.restart()
  await until('it is given back', async () => (await givenBy(id)) === 0 && (await askedOf(id)) === undefined)
  await server.client.instances.delete(id)
})

test('what was saved while its memory was taken has it back in its time: an instance after a standby, and each fork', async () => {
  const id = await running('saved')
  const taken = await server.client.resources.reclaimMemory({ reclaim_bytes: 64 * MIB, hold_for: '5s' })
  assert.equal(taken.applied_reclaim_bytes, 64 * MIB)
  await server.client.instances.standby(id)
  const snapshot = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
  await server.client.instances.restore(id)
  const fork = await server.client.snapshots.fork(snapshot.id, { name: 'saved-fork' })
  for (const one of [id, fork.id])
    await until('it is given back', async () => (await givenBy(one)) === 0 && (await askedOf(one)) === undefined)
  await server.client.resources.reclaimMemory({ reclaim_bytes: 64 * MIB })
  await server.client.instances.stop(fork.id)
  assert.equal(await askedOf(fork.id), undefined, 'what boots anew has all of its memory')
  for (const one of [id, fork.id]) await server.client.instances.delete(one)
  await server.client.snapshots.delete(snapshot.id)
})

test('what can not be is refused', async () => {
  for (const body of [{ reclaim_bytes: -1 }, { reclaim_bytes: 1, hold_for: '2h' }, { reclaim_bytes: 1, hold_for: 'long' }])
    await assert.rejects(server.client.resources.reclaimMemory(body), (error) => error instanceof APIError && error.status === 400)
})
