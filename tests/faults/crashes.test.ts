// The server is killed in the middle of what it does, at named steps, and started again: the list is true, what was committed works, nothing is left over.

import assert from 'node:assert/strict'
import { readdirSync, statSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { runMachine, shell, small, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { vmmOf, vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

let origin = ''
let snapshotId = ''
before(async () => {
  origin = await runMachine(server, { name: 'origin' })
  await shell(server, origin, 'echo kept > /root/file; sync')
  snapshotId = (await server.client.instances.snapshots.create(origin, { kind: 'Standby', name: 'base' })).id
})

/** Kills the server at a step of what `act` starts, then starts it again without faults. */
async function crashAt(fault: string, act: () => Promise<unknown>): Promise<void> {
  await server.restart({ HYPEMAN_FAULTS: fault })
  const outcome = act().then(
    () => 'went through',
    () => 'failed',
  )
  await server.died()
  assert.equal(await outcome, 'failed', `nothing was killed at ${fault}`)
  await server.restart({})
}

/** What must hold after every crash: origin runs in its own process, its snapshot is listed, nothing else is. */
async function assertNothingLeft(): Promise<void> {
  const instances = await server.client.instances.list()
  assert.deepEqual(
    instances.map((one) => [one.name, one.state]),
    [['origin', 'Running']],
  )
  assert.deepEqual(
    (await server.client.snapshots.list()).map((one) => one.id),
    [snapshotId],
  )
  assert.deepEqual(vmmsOf(server), [vmmOf(server, origin)])
  for (const directory of ['staging', 'trash']) assert.deepEqual(await readdir(path.join(server.dataDirectory, directory)), [], directory)
  assert.equal(await shell(server, origin, 'cat /root/file'), 'kept')
}

test('VMs go on while the server is away, and are found again', async () => {
  const pid = vmmOf(server, origin)
  await shell(server, origin, 'echo $$ > /run/marker')
  await server.crash()
  assert.deepEqual(vmmsOf(server), [pid])
  await server.restart({})
  assert.equal(vmmOf(server, origin), pid)
  assert.equal((await server.client.instances.get(origin)).state, 'Running')
  await shell(server, origin, 'test -s /run/marker')
})

test('a second server on the same data directory is refused, and names the first', async () => {
  const second = await server.secondServer()
  assert.notEqual(second.code, 0)
  assert.match(second.output, new RegExp(`another server \\(pid ${server.pid}\\)`))
})

const create = (): Promise<unknown> => server.client.instances.create({ ...small, name: 'new' })
const fork = (): Promise<unknown> => server.client.snapshots.fork(snapshotId, { name: 'new' })
const snapshot = (): Promise<unknown> => server.client.instances.snapshots.create(origin, { kind: 'Standby', name: 'new' })

for (const [fault, act] of [
  ['instance.create/disk@after:kill', create],
  ['instance.create/commit@before:kill', create],
  ['instance.fork/materialise@after:kill', fork],
  ['instance.fork/commit@before:kill', fork],
  ['snapshot.create/stage@after:kill', snapshot],
  ['snapshot.create/capture@after:kill', snapshot],
  ['snapshot.create/commit@before:kill', snapshot],
] as const)
  test(`killed at ${fault.replace(':kill', '')}, before anything was committed: nothing is there, and the same request works afterwards`, async () => {
    await crashAt(fault, act)
    await assertNothingLeft()
    const made = (await act()) as { readonly id: string; readonly kind?: string }
    if (made.kind === undefined) await server.client.instances.delete(made.id)
    else await server.client.snapshots.delete(made.id)
    await assertNothingLeft()
  })

/** A part of memory has been written into a directory that is not committed yet. */
function isCopying(): boolean {
  const staging = path.join(server.dataDirectory, 'staging')
  return readdirSync(staging, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('memory-1.base'))
    .some((name) => (statSync(path.join(staging, name), { throwIfNoEntry: false })?.blocks ?? 0) > 0)
}

test('killed while memory is copied from a machine that goes on: it goes on all the same, and the next snapshot is taken', async () => {
  await shell(
    server,
    origin,
    'mkdir -p /mnt/much && mount -t tmpfs -o size=100M none /mnt/much && dd if=/dev/urandom of=/mnt/much/file bs=1M count=64 2>/dev/null',
  )
  await shell(
    server,
    origin,
    '(i=0; while :; do i=$((i+1)); echo $i > /mnt/much/next; mv /mnt/much/next /mnt/much/now; done) </dev/null >/dev/null 2>&1 & echo $! > /run/counting',
  )
  const outcome = snapshot().then(
    () => 'went through',
    () => 'failed',
  )
  await until('memory is copied', isCopying)
  await server.crash()
  assert.equal(await outcome, 'failed')
  await server.restart({})
  await assertNothingLeft()
  const now = (): Promise<string> => shell(server, origin, 'cat /mnt/much/now')
  const before = await now()
  await until('its programs go on', async () => (await now()) !== before)
  const made = (await snapshot()) as { readonly id: string }
  await server.client.snapshots.delete(made.id)
  await shell(server, origin, 'kill $(cat /run/counting); umount -l /mnt/much')
  await assertNothingLeft()
})

test('killed after a snapshot was committed: it is there and forks', async () => {
  await crashAt('snapshot.create/commit@after:kill', snapshot)
  const made = (await server.client.snapshots.list()).find((one) => one.name === 'new')
  assert.ok(made)
  const forked = await server.client.snapshots.fork(made.id, { name: 'forked' })
  countVm('fork')
  assert.equal(await shell(server, forked.id, 'cat /root/file'), 'kept')
  await server.client.instances.delete(forked.id)
  await server.client.snapshots.delete(made.id)
  await assertNothingLeft()
})

test('killed while a committed fork was starting: it is listed in a true state, and can be brought up', async () => {
  await crashAt('instance.fork/load@after:kill', fork)
  const found = await server.client.instances.get('new')
  if (found.state === 'Standby') await server.client.instances.restore(found.id)
  await untilRunning(server, found.id)
  assert.equal(await shell(server, found.id, 'hostname; cat /root/file'), 'new\nkept')
  await server.client.instances.delete(found.id)
  await assertNothingLeft()
})

test('killed while an instance was booting: it comes up by itself', async () => {
  await crashAt('instance.create/vmm@after:kill', create)
  const found = await server.client.instances.get('new')
  if (found.state === 'Stopped') await server.client.instances.start(found.id, {})
  await untilRunning(server, found.id)
  await server.client.instances.delete(found.id)
  await assertNothingLeft()
})

test('killed in the middle of standby: the instance runs again or is in standby, whole', async () => {
  for (const fault of ['instance.standby/pause@after:kill', 'instance.standby/save@after:kill', 'instance.standby/end@after:kill']) {
    await crashAt(fault, () => server.client.instances.standby(origin))
    const { state } = await server.client.instances.get(origin)
    assert.ok(state === 'Running' || state === 'Standby', `${state} after ${fault}`)
    if (state === 'Standby') await server.client.instances.restore(origin)
    countVm('restore')
    await assertNothingLeft()
  }
})

test('killed in the middle of a restore: the old state is back until the new one is confirmed', async () => {
  for (const [fault, content] of [
    ['snapshot.restore/fill@after:kill', 'later'],
    ['snapshot.restore/swap@after:kill', 'later'],
    ['snapshot.restore/load@after:kill', 'later'],
    ['snapshot.restore/confirm@after:kill', 'kept'],
  ] as const) {
    await shell(server, origin, 'echo later > /root/file; sync')
    await server.client.instances.standby(origin)
    await crashAt(fault, () => server.client.instances.snapshots.restore(snapshotId, { id: origin }))
    const { state } = await server.client.instances.get(origin)
    assert.equal(state, content === 'later' ? 'Standby' : 'Running', fault)
    if (state === 'Standby') await server.client.instances.restore(origin)
    countVm('restore')
    assert.equal(await shell(server, origin, 'cat /root/file'), content, fault)
    await shell(server, origin, 'echo kept > /root/file; sync')
    await assertNothingLeft()
  }
})

for (const [what, fault] of [
  ['the old state was swapped out', 'snapshot.restore/swap@after:throw'],
  ['the new one was loaded', 'snapshot.restore/load@after:throw'],
  ['its agent had answered', 'snapshot.restore/running@before:throw'],
] as const)
  test(`a restore that fails after ${what} brings the old state back`, async () => {
    await shell(server, origin, 'echo later > /root/file; sync')
    await server.client.instances.standby(origin)
    await server.restart({ HYPEMAN_FAULTS: fault })
    await assert.rejects(server.client.instances.snapshots.restore(snapshotId, { id: origin }))
    assert.equal((await server.client.instances.get(origin)).state, 'Standby')
    await server.restart({})
    await server.client.instances.restore(origin)
    countVm('restore')
    assert.equal(await shell(server, origin, 'cat /root/file'), 'later')
    await shell(server, origin, 'echo kept > /root/file; sync')
    await assertNothingLeft()
  })

test('a full disk while a snapshot is taken leaves the source running and nothing of the snapshot', async () => {
  await server.restart({ HYPEMAN_FAULTS: 'snapshot.create/record@before:enospc' })
  await assert.rejects(snapshot(), /no space left/)
  await server.restart({})
  await assertNothingLeft()
})
