// Forks that are loaded ahead, on real QEMU: the next forks take them and are as good as any, and none is left when it is of no use any more.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { eventsOf } from '../support/instance-events.ts'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'
import { vmmOf, vmmsOf } from '../support/vmm.ts'

const server = await startServer({ SNAPSHOTS__SPARES: '2' })
after(() => server[Symbol.asyncDispose]())

let origin = ''
let snapshotId = ''
before(async () => {
  origin = await runMachine(server, { name: 'origin' })
  await shell(server, origin, 'echo before > /root/file; echo kept > /run/memory')
  snapshotId = await snapshot()
})

async function snapshot(): Promise<string> {
  return (await server.client.instances.snapshots.create(origin, { kind: 'Standby' })).id
}

let count = 0
async function fork(id = snapshotId): Promise<AsyncDisposable & { readonly id: string; readonly loadedAhead: boolean }> {
  const made = await server.client.snapshots.fork(id, { name: `fork-${(count += 1)}` })
  countVm(`fork ${made.id}`)
  assert.equal(made.state, 'Running')
  const loadedAhead = (await eventsOf(server, made.id)).some(({ step }) => step === 'loaded-ahead')
  return { id: made.id, loadedAhead, [Symbol.asyncDispose]: () => server.client.instances.delete(made.id) }
}

/** VMMs that run for no instance. */
async function spares(): Promise<readonly number[]> {
  const instances = (await server.client.instances.list()).filter(({ state }) => state === 'Running')
  const known = new Set(instances.map(({ id }) => vmmOf(server, id)))
  return vmmsOf(server).filter((pid) => !known.has(pid))
}

/** Waits until so many guests are loaded and can be taken. */
async function untilLoaded(wanted: number): Promise<void> {
  await until(`${wanted} are loaded ahead`, async () => {
    const answer = await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${server.token}` } })
    return (await answer.text()).includes(`\nhypeman_forks_loaded_ahead ${wanted}\n`)
  })
}

/** One fork at a time, so that one spare is made. */
async function untilOneIsLoaded(id = snapshotId): Promise<number> {
  await using _first = await fork(id)
  await untilLoaded(1)
  const [pid] = await spares()
  assert.ok(pid !== undefined)
  return pid
}

test('a fork that was loaded ahead has what the snapshot holds, an identity and a disk of its own', async () => {
  const pid = await untilOneIsLoaded()
  await using one = await fork()
  assert.ok(one.loadedAhead)
  assert.equal(vmmOf(server, one.id), pid)
  await using other = await fork()
  const question =
    'cat /root/file /run/memory /etc/machine-id /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; hostname; head -c 16 /dev/urandom | xxd -p'
  const [first, second] = await Promise.all([one, other].map(async ({ id }) => (await shell(server, id, question)).split('\n')))
  assert.deepEqual(first?.slice(0, 2), ['before', 'kept'])
  for (const [index, line] of (first ?? []).entries()) if (index > 1) assert.notEqual(line, second?.[index], `line ${index}`)
  assert.equal(first?.[4], (await server.client.instances.get(one.id)).network?.mac)
  await shell(server, one.id, 'echo changed > /root/file; sync')
  assert.equal(await shell(server, other.id, 'cat /root/file'), 'before')
})

test('one that was loaded ahead goes through standby, a snapshot of its own and a cold start as any instance does', async () => {
  await untilOneIsLoaded()
  await using one = await fork()
  assert.ok(one.loadedAhead)
  await shell(server, one.id, 'echo own > /root/file; sync')
  await server.client.instances.standby(one.id)
  await server.client.instances.restore(one.id, {})
  const own = (await server.client.instances.snapshots.create(one.id, { kind: 'Standby' })).id
  await using again = await fork(own)
  assert.equal(await shell(server, again.id, 'cat /root/file /run/memory'), 'own\nkept')
  await server.client.snapshots.delete(own)
  await server.client.instances.stop(one.id)
  await server.client.instances.start(one.id, {})
  await until('it runs again', async () => (await server.client.instances.get(one.id)).state === 'Running')
  assert.equal(await shell(server, one.id, 'cat /root/file'), 'own')
})

test('a VMM that was loaded ahead and died is not used', async () => {
  const pid = await untilOneIsLoaded()
  process.kill(pid, 'SIGKILL')
  await untilLoaded(0)
  await using one = await fork()
  assert.equal(one.loadedAhead, false)
})

test('deleting a snapshot ends what was loaded of it', async () => {
  const id = await snapshot()
  await using _first = await fork(id)
  await untilLoaded(2)
  const loaded = await spares()
  await server.client.snapshots.delete(id)
  await untilLoaded(1)
  assert.equal(loaded.filter((pid) => vmmsOf(server).includes(pid)).length, 1)
})

test('a server that was killed leaves none behind, and one that stops neither; instances go on', async () => {
  const pid = await untilOneIsLoaded()
  await using one = await fork()
  assert.equal(vmmOf(server, one.id), pid)
  await untilLoaded(1)
  await server.crash()
  await server.restart()
  await untilLoaded(0)
  assert.equal(await shell(server, one.id, 'cat /run/memory'), 'kept')
  await untilOneIsLoaded()
  await server.stop()
  assert.deepEqual(
    vmmsOf(server),
    [origin, one.id].map((id) => vmmOf(server, id)).toSorted((first, second) => first - second),
  )
  await server.restart()
})

test('a fork that fails at any step after it took one leaves nothing of it', async () => {
  for (const fault of ['check@before', 'commit@before', 'commit@after', 'load@before', 'load@after', 'resume@after']) {
    await server.restart({ SNAPSHOTS__SPARES: '1', HYPEMAN_FAULTS: `instance.fork/${fault}:throw` })
    const instances = await readdir(path.join(server.dataDirectory, 'instances'))
    // Also one that fails tells that the snapshot is forked.
    await assert.rejects(server.client.snapshots.fork(snapshotId, { name: 'first' }), /500 the server failed/)
    await untilLoaded(1)
    const [pid] = await spares()
    await assert.rejects(server.client.snapshots.fork(snapshotId, { name: 'second' }), /500 the server failed/)
    assert.ok(pid !== undefined && !vmmsOf(server).includes(pid), fault)
    assert.deepEqual(await readdir(path.join(server.dataDirectory, 'instances')), instances)
    await untilLoaded(1)
  }
})

test('loading one ahead that fails, or is cut off, leaves nothing and is in nobody’s way', async () => {
  for (const fault of ['materialise@after:enospc', 'load@before:throw', 'load@after:throw', 'materialise@after:kill', 'load@after:kill']) {
    await server.restart({ SNAPSHOTS__SPARES: '1', HYPEMAN_FAULTS: `fork.prepare/${fault}` })
    const seen = (await server.log()).length
    const { id } = await server.client.snapshots.fork(snapshotId, { name: 'asked-for' })
    countVm(`fork ${id}`)
    if (fault.endsWith('kill')) {
      await server.died()
      await server.restart({ SNAPSHOTS__SPARES: '1' })
    } else await until('it has failed', async () => (await server.log()).slice(seen).includes('no fork could be loaded ahead'))
    assert.equal(await shell(server, id, 'cat /run/memory'), 'kept')
    assert.deepEqual([await spares(), await readdir(path.join(server.dataDirectory, 'staging'))], [[], []], fault)
    await server.client.instances.delete(id)
  }
})
