// What the host has and who may have it, over the official client: with a real machine, and with many stand-ins that ask at once.

import assert from 'node:assert/strict'
import { readdir, readFile, statfs } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { APIError, type Hypeman } from '@onkernel/hypeman'
import { runMachine, shell, small } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { standIn, startStandInServer } from '../support/stand-in-hypervisor/server.ts'
import { countVm } from '../support/vm-count.ts'

const MIB = 1024 ** 2
const GIB = 1024 ** 3

/** A ratio by which just so much memory of this host may be promised. */
function ratioFor(memoryBytes: number): string {
  return ((memoryBytes + 0.5) / os.totalmem()).toFixed(15)
}

const full = refusedWith(409, /more memory \(left: .*\); stop or delete .* oversubscription\.memory/)

async function promised({ client }: Pick<TestServer, 'client'>): Promise<{ cpu: number; memory: number; disk: number }> {
  const { cpu, memory, disk } = await client.resources.get()
  for (const one of [cpu, memory, disk]) assert.equal(one.available, one.effective_limit - one.allocated)
  return { cpu: cpu.allocated, memory: memory.allocated / MIB, disk: disk.allocated }
}

async function assertNothingInTheMaking({ dataDirectory }: TestServer): Promise<void> {
  assert.deepEqual(await readdir(path.join(dataDirectory, 'staging')), [])
}

test('a machine holds processors and memory while it runs and its disk until it is deleted, and what does not fit is refused as a whole', async () => {
  const room = 400 * MIB
  await using server = await startServer({ OVERSUBSCRIPTION__MEMORY: ratioFor(room) })
  const { client } = server
  const before = await client.resources.get()
  assert.equal(before.memory.effective_limit, room)
  assert.equal(before.memory.source, 'detected')
  assert.deepEqual([before.cpu.allocated, before.memory.allocated, before.allocations], [0, 0, []])
  const images = before.disk_breakdown?.images_bytes ?? 0
  assert.ok(images > 0 && before.disk.allocated === images)

  const one = await runMachine(server, { name: 'one', size: '192MB', overlay_size: '1GB' })
  await shell(server, one, 'echo kept > /root/kept')
  const running = { cpu: 1, memory: 192, disk: images + GIB }
  assert.deepEqual(await promised(server), running)
  const { allocations, disk_breakdown: parts } = await client.resources.get()
  const own = { cpu: 1, memory_bytes: 192 * MIB, disk_bytes: GIB }
  assert.deepEqual(allocations, [{ instance_id: one, instance_name: 'one', ...own }])
  assert.equal(parts?.overlays_bytes, GIB)

  const snapshot = await client.instances.snapshots.create(one, { kind: 'Standby' })
  assert.deepEqual(await promised(server), running)
  const two = await client.snapshots.fork(snapshot.id, { name: 'two' })
  countVm('fork')
  assert.deepEqual(await promised(server), { cpu: 2, memory: 384, disk: images + 2 * GIB })
  await assert.rejects(client.snapshots.fork(snapshot.id, { name: 'three' }), full)
  await assert.rejects(client.instances.fork(one, { name: 'three', from_running: true }), full)
  await assert.rejects(client.instances.create({ name: 'three', image: 'hypeman/base', size: '192MB', vcpus: 1 }), full)
  await assert.rejects(client.instances.get('three'), { status: 404 })
  await assertNothingInTheMaking(server)

  // What only lies there needs no memory.
  await client.instances.standby(one)
  assert.deepEqual(await promised(server), { cpu: 1, memory: 192, disk: images + 2 * GIB })
  const three = await client.snapshots.fork(snapshot.id, { name: 'three', target_state: 'Stopped' })
  const four = await client.snapshots.fork(snapshot.id, { name: 'four', target_state: 'Standby' })
  await client.instances.restore(four.id)
  countVm('restore')
  assert.deepEqual(await promised(server), { cpu: 2, memory: 384, disk: images + 4 * GIB })
  await assert.rejects(client.instances.restore(one), full)
  assert.equal((await client.instances.get(one)).state, 'Standby')
  await assert.rejects(client.instances.start(three.id, {}), full)
  assert.equal((await client.instances.get(three.id)).state, 'Stopped')
  await assert.rejects(client.instances.snapshots.restore(snapshot.id, { id: one }), full)
  assert.equal((await client.instances.get(one)).state, 'Standby')
  await assertNothingInTheMaking(server)

  // Nothing of it is remembered: the next server finds the same.
  await server.crash()
  await server.restart()
  assert.deepEqual(await promised(server), { cpu: 2, memory: 384, disk: images + 4 * GIB })
  await assert.rejects(server.client.instances.restore(one), full)
  await server.client.instances.delete(two.id)
  await server.client.instances.restore(one)
  countVm('restore')
  assert.equal(await shell(server, one, 'cat /root/kept'), 'kept')
})

/** A line of a file of the kernel's such as /proc/meminfo, as a number. */
async function numberIn(file: string, line: RegExp): Promise<number> {
  return Number(line.exec(await readFile(file, 'utf8'))?.[1] ?? assert.fail(`${file} has no ${line}`))
}

test('capacity is what the kernel says of the host; what machines take goes up and down with them, and one over a limit changes nothing', async () => {
  const unlimited = { LIMITS__MAX_VCPUS_PER_INSTANCE: '4096', LIMITS__MAX_OVERLAY_SIZE: '1000TB' }
  await using server = await startServer({ ...unlimited, OVERSUBSCRIPTION__CPU: '1', OVERSUBSCRIPTION__DISK: '1' })
  const { client } = server
  const idle = await client.resources.get()
  const { blocks, bsize } = await statfs(server.dataDirectory)
  const ofGroup = process.constrainedMemory()
  const ofHost = 1024 * (await numberIn('/proc/meminfo', /^MemTotal:\s+(\d+) kB$/m))
  assert.equal(idle.memory.capacity, ofGroup > 0 ? Math.min(ofGroup, ofHost) : ofHost)
  const allowed = await readFile('/proc/self/status', 'utf8').then((text) => /^Cpus_allowed_list:\s+(\S+)$/m.exec(text)?.[1] ?? '')
  const processors = allowed.split(',').reduce((sum, range) => {
    const [first = 0, last = first] = range.split('-').map(Number)
    return sum + last - first + 1
  }, 0)
  assert.ok(idle.cpu.capacity <= processors && idle.cpu.capacity === os.availableParallelism(), `${idle.cpu.capacity} of ${processors}`)
  assert.equal(idle.disk.capacity, blocks * bsize)
  for (const one of [idle.cpu, idle.memory, idle.disk])
    assert.deepEqual([one.source, one.effective_limit], ['detected', Math.floor(one.capacity * one.oversub_ratio)])
  const nothing = await promised(server)
  assert.deepEqual([nothing.cpu, nothing.memory], [0, 0])

  const id = await runMachine(server, { name: 'holds' })
  const held = await promised(server)
  assert.deepEqual(held, { cpu: 1, memory: 192, disk: nothing.disk + GIB })
  for (const [over, resource] of [
    [{ vcpus: idle.cpu.capacity }, 'cpu'],
    [{ overlay_size: `${Math.ceil(idle.disk.capacity / GIB)}GB` }, 'disk'],
  ] as const) {
    const before = await client.resources.get()
    await assert.rejects(client.instances.create({ ...small, name: 'over', ...over }), (error) => {
      assert.ok(error instanceof APIError, String(error))
      assert.deepEqual([error.status, (error.error as { code: string }).code], [409, 'insufficient_resources'], resource)
      return true
    })
    assert.deepEqual(await client.resources.get(), before)
    assert.deepEqual(
      (await client.instances.list()).map((instance) => instance.id),
      [id],
    )
    assert.deepEqual(await readdir(path.join(server.dataDirectory, 'instances')), [id])
    await assertNothingInTheMaking(server)
  }
  await client.instances.stop(id)
  assert.deepEqual(await promised(server), { cpu: 0, memory: 0, disk: nothing.disk + GIB })
  await client.instances.start(id, {})
  assert.deepEqual(await promised(server), held)
  await client.instances.delete(id)
  assert.deepEqual(await promised(server), nothing)
})

/** How many of the requests got what they asked for; all others were refused for want of memory. */
async function succeeded(requests: readonly Promise<unknown>[]): Promise<number> {
  let count = 0
  for (const result of await Promise.allSettled(requests))
    if (result.status === 'fulfilled') count += 1
    else assert.ok(full(result.reason), String(result.reason))
  return count
}

test('of many who ask at once exactly as many get a machine as there is memory for, and all of it comes back', async () => {
  await using server = await startStandInServer({ OVERSUBSCRIPTION__MEMORY: ratioFor(5 * 64 * MIB) })
  const { client } = server
  const names = (round: string): readonly string[] => Array.from({ length: 16 }, (_, index) => `${round}-${index}`)
  const removeAll = async (): Promise<void> => {
    await Promise.all((await client.instances.list()).map(({ id }) => client.instances.delete(id)))
    assert.equal((await promised(server)).memory, 0)
  }
  const create = (name: string): ReturnType<Hypeman['instances']['create']> => client.instances.create({ ...standIn, name })

  assert.equal(await succeeded(names('new').map(create)), 5)
  assert.deepEqual(await promised(server).then(({ cpu, memory }) => ({ cpu, memory })), { cpu: 5, memory: 320 })
  assert.equal((await client.instances.list()).length, 5)
  await removeAll()

  const source = await create('source')
  await client.instances.wait(source.id, { state: 'Running' })
  const snapshot = await client.instances.snapshots.create(source.id, { kind: 'Standby' })
  assert.equal(await succeeded(names('fork').map((name) => client.snapshots.fork(snapshot.id, { name }))), 4)
  await removeAll()

  const asleep = await Promise.all(names('asleep').map((name) => client.snapshots.fork(snapshot.id, { name, target_state: 'Standby' })))
  assert.equal((await promised(server)).memory, 0)
  assert.equal(await succeeded(asleep.map(({ id }) => client.instances.restore(id))), 5)
  const states = (await client.instances.list()).map(({ state }) => state)
  assert.deepEqual([states.filter((state) => state === 'Running').length, states.filter((state) => state === 'Standby').length], [5, 11])
  await removeAll()
  await assertNothingInTheMaking(server)
})

test('a fork of an instance that is larger than the limits of today is refused, and the instance itself still starts', async () => {
  await using server = await startStandInServer()
  const { id } = await server.client.instances.create({ ...standIn, name: 'large', vcpus: 2 })
  await server.client.instances.wait(id, { state: 'Running' })
  await server.client.instances.stop(id)
  await server.restart({ LIMITS__MAX_VCPUS_PER_INSTANCE: '1' })
  await assert.rejects(server.client.instances.fork(id, { name: 'copy' }), refusedWith(409, /limits\.max_vcpus_per_instance/))
  await server.client.instances.start(id, {})
  assert.equal((await server.client.instances.wait(id, { state: 'Running' })).state, 'Running')
})
