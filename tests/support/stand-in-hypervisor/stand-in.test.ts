// The stand-in keeps the hypervisor contract, so that what tests see with it is the product's doing.

import assert from 'node:assert/strict'
import { readdir, stat } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { killVmm, vmmOf, vmmsOf } from '../vmm.ts'
import { ask, contentOf, standIn, startStandInServer } from './server.ts'

const server = await startStandInServer()
after(() => server[Symbol.asyncDispose]())
const { client } = server

async function running(name: string): Promise<string> {
  const { id } = await client.instances.create({ ...standIn, name })
  assert.equal((await client.instances.wait(id, { state: 'Running', timeout: '10s' })).state, 'Running')
  return id
}

test('a machine starts, keeps what is written to its memory and disk, and a write tells what was there before', async () => {
  const id = await running('plain')
  assert.deepEqual(await ask(server, id, ['memory', 'm1']), { output: '', exitCode: 0 })
  assert.deepEqual(await ask(server, id, ['memory', 'm2']), { output: 'm1', exitCode: 0 })
  await ask(server, id, ['disk', 'd1'])
  const { memory, disk } = await contentOf(server, id)
  assert.deepEqual([memory.content, disk, memory.instance_id, memory.hostname], ['m2', 'd1', id, 'plain'])
  assert.equal((await ask(server, id, ['unknown'])).exitCode, 127)
  await client.instances.delete(id)
  assert.deepEqual(vmmsOf(server), [])
})

test('a stop loses the memory and keeps the disk; standby keeps both', async () => {
  const id = await running('resting')
  await ask(server, id, ['memory', 'm'])
  await ask(server, id, ['disk', 'd'])
  await client.instances.standby(id)
  assert.deepEqual(vmmsOf(server), [])
  await client.instances.restore(id)
  assert.deepEqual([(await contentOf(server, id)).memory.content, (await contentOf(server, id)).disk], ['m', 'd'])
  await client.instances.stop(id)
  await client.instances.start(id, {})
  await client.instances.wait(id, { state: 'Running', timeout: '10s' })
  assert.deepEqual([(await contentOf(server, id)).memory.content, (await contentOf(server, id)).disk], ['', 'd'])
  await client.instances.delete(id)
})

test('forks have the content of their snapshot, an identity of their own, and write to nothing that they share', async () => {
  const origin = await running('origin')
  await ask(server, origin, ['memory', 'm'])
  await ask(server, origin, ['disk', 'd'])
  const snapshot = await client.instances.snapshots.create(origin, { kind: 'Standby' })
  await ask(server, origin, ['memory', 'later'])
  await ask(server, origin, ['disk', 'later'])
  const forks = await Promise.all(['one', 'two'].map((name) => client.snapshots.fork(snapshot.id, { name })))
  for (const fork of forks) {
    await ask(server, fork.id, ['disk', fork.name])
    assert.equal((await ask(server, fork.id, ['memory', fork.name])).output, 'm')
  }
  const contents = await Promise.all([origin, ...forks.map(({ id }) => id)].map((id) => contentOf(server, id)))
  assert.deepEqual(
    contents.map(({ memory, disk }) => [memory.content, disk]),
    [
      ['later', 'later'],
      ['one', 'one'],
      ['two', 'two'],
    ],
  )
  for (const own of ['random', 'instance_id', 'machine_id', 'mac'] as const)
    assert.equal(new Set(contents.map(({ memory }) => memory[own])).size, 3, own)
  assert.equal(new Set(contents.map(({ memory }) => memory.token)).size, 1)
  const third = await client.snapshots.fork(snapshot.id, { name: 'three' })
  assert.deepEqual([(await contentOf(server, third.id)).memory.content, (await contentOf(server, third.id)).disk], ['m', 'd'])
  for (const id of [origin, third.id, ...forks.map((fork) => fork.id)]) await client.instances.delete(id)
  await client.snapshots.delete(snapshot.id)
})

test('a fork that is not started shares the files of its snapshot, and no longer once it runs', async () => {
  const origin = await running('sharing')
  await ask(server, origin, ['disk', 'd'])
  const snapshot = await client.instances.snapshots.create(origin, { kind: 'Standby' })
  const fork = await client.snapshots.fork(snapshot.id, { name: 'sleeping', target_state: 'Standby' })
  const links = async (): Promise<number[]> => {
    const directory = path.join(server.dataDirectory, 'snapshots', snapshot.id, 'guest')
    const names = (await readdir(directory)).filter((name) => /^(disk|memory)-/.test(name)).toSorted()
    return await Promise.all(names.map(async (name) => (await stat(path.join(directory, name))).nlink))
  }
  assert.deepEqual(await links(), [2, 2])
  await client.instances.restore(fork.id)
  assert.deepEqual(await links(), [1, 1])
  for (const id of [origin, fork.id]) await client.instances.delete(id)
  await client.snapshots.delete(snapshot.id)
})

test('machines outlive the server and are found again; a killed one has stopped', async () => {
  const id = await running('lasting')
  await ask(server, id, ['memory', 'm'])
  const pid = vmmOf(server, id)
  await server.crash()
  await server.restart()
  assert.deepEqual(vmmsOf(server), [pid])
  assert.equal((await contentOf(server, id)).memory.content, 'm')
  await killVmm(server, id)
  assert.equal((await server.client.instances.wait(id, { state: 'Stopped', timeout: '10s' })).state, 'Stopped')
  await server.client.instances.delete(id)
})

test('a program that ends turns its machine off, with its exit code in the record', async () => {
  const { id } = await server.client.instances.create({ ...standIn, name: 'ending' })
  await server.client.instances.wait(id, { state: 'Running', timeout: '10s' })
  await ask(server, id, ['exit', '7']).catch(() => undefined) // the machine goes off before the command has ended
  await server.client.instances.wait(id, { state: 'Stopped', timeout: '10s' })
  assert.equal((await server.client.instances.get(id)).exit_code, 7)
  await server.client.instances.delete(id)
})
