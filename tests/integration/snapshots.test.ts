// Snapshots and forks on real QEMU: what they hold, what they keep apart, what they refuse. One machine is booted and forked for each test.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { eventsOf } from '../support/instance-events.ts'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer } from '../support/server.ts'
import { vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

/** A running machine with a counting program and a file, and a snapshot of it. */
let origin = ''
let snapshotId = ''
before(async () => {
  origin = await runMachine(server, { name: 'origin' })
  await shell(
    server,
    origin,
    'echo before > /root/file; (i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.5; done) >/dev/null 2>&1 &',
  )
  await shell(server, origin, 'until [ -s /run/counter ]; do sleep 0.1; done')
  snapshotId = (await client.instances.snapshots.create(origin, { kind: 'Standby', name: 'base' })).id
})

/** A fork for one test, deleted with it. */
async function fork(
  name: string,
  options: Omit<Parameters<typeof client.snapshots.fork>[1], 'name'> = {},
): Promise<AsyncDisposable & { id: string; state: string }> {
  const made = await client.snapshots.fork(snapshotId, { name, ...options })
  if (made.state === 'Running') countVm('fork')
  return { id: made.id, state: made.state, [Symbol.asyncDispose]: () => client.instances.delete(made.id) }
}

test('the source goes on in the same process while it is snapshotted', async () => {
  const [vmm] = vmmsOf(server)
  const { network } = await client.instances.get(origin)
  const counted = Number(await shell(server, origin, 'cat /run/counter'))
  const snapshot = await client.instances.snapshots.create(origin, { kind: 'Standby' })
  assert.deepEqual(vmmsOf(server), [vmm])
  await shell(server, origin, `until [ "$(cat /run/counter)" -gt ${counted} ]; do sleep 0.1; done`)
  const after = await client.instances.get(origin)
  assert.deepEqual([after.state, after.network], ['Running', network])
  await client.snapshots.delete(snapshot.id)
})

test('ten forks at once differ in name, MAC, machine id, boot id and random bytes, and share what the snapshot holds', async () => {
  const names = Array.from({ length: 10 }, (_, index) => `many-${index}`)
  await using forks = new AsyncDisposableStack()
  const question =
    'cat /root/file; hostname; cat /etc/hostname /sys/class/net/eth0/address /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | xxd -p; date +%s'
  const answers = await Promise.all(
    names.map(async (name) => {
      const { id } = forks.use(await fork(name))
      const asked = Date.now()
      const lines = (await shell(server, id, question)).split('\n')
      return { id, name, lines, asked, answered: Date.now() }
    }),
  )
  for (const { id, name, lines, asked, answered } of answers) {
    const [file, hostname, hostnameFile, mac, , , , seconds] = lines
    assert.deepEqual([file, hostname, hostnameFile], ['before', name, name])
    assert.equal(mac, (await client.instances.get(id)).network?.mac)
    const time = Number(seconds) * 1000
    assert.ok(time > asked - 2_000 && time < answered + 2_000, `the clock is ${time - answered} ms off`)
  }
  for (const column of [3, 4, 5, 6]) assert.equal(new Set(answers.map(({ lines }) => lines[column])).size, names.length, `column ${column}`)
})

test('what a fork writes is its own', async () => {
  await using one = await fork('writer')
  await using other = await fork('reader')
  await shell(server, one.id, 'echo changed > /root/file; echo new > /root/new; sync')
  assert.equal(await shell(server, other.id, 'cat /root/file; ls /root/new 2>/dev/null || echo absent'), 'before\nabsent')
  assert.equal(await shell(server, origin, 'cat /root/file'), 'before')
})

test('a fork can be forked, and knows where it comes from', async () => {
  await using parent = await fork('parent')
  await shell(server, parent.id, 'echo parent > /root/file')
  const second = await client.instances.snapshots.create(parent.id, { kind: 'Standby' })
  const child = await client.snapshots.fork(second.id, { name: 'child' })
  countVm('fork')
  assert.equal(await shell(server, child.id, 'cat /root/file; hostname'), 'parent\nchild')
  const lineage = child as { readonly forked_from?: { readonly snapshot_id?: string; readonly instance_id?: string } }
  assert.deepEqual(lineage.forked_from, { snapshot_id: second.id, instance_id: parent.id })
  await client.instances.delete(child.id)
  await client.snapshots.delete(second.id)
})

test('a Standby snapshot can become Stopped (its disks alone) or Standby (its memory unused)', async () => {
  await using stopped = await fork('cold', { target_state: 'Stopped' })
  assert.equal(stopped.state, 'Stopped')
  await client.instances.start(stopped.id, {})
  await untilRunning(server, stopped.id)
  assert.equal(await shell(server, stopped.id, 'hostname; ls /run/counter 2>/dev/null || echo fresh'), 'cold\nfresh')

  await using standby = await fork('asleep', { target_state: 'Standby' })
  assert.equal(standby.state, 'Standby')
  await client.instances.restore(standby.id)
  countVm('restore')
  assert.equal(await shell(server, standby.id, 'hostname; test -s /run/counter && echo counting'), 'asleep\ncounting')
})

test('an instance forks as it runs only when that is asked for, and from standby without a word', async () => {
  await using source = await fork('source')
  await assert.rejects(client.instances.fork(source.id, { name: 'unasked' }), refusedWith(409, /from_running/))
  const running = await client.instances.fork(source.id, { name: 'asked', from_running: true })
  countVm('fork')
  assert.equal(running.state, 'Running')
  assert.equal(await shell(server, running.id, 'hostname; cat /root/file'), 'asked\nbefore')
  assert.equal((await client.instances.get(source.id)).state, 'Running')
  await client.instances.standby(source.id)
  const asleep = await client.instances.fork(source.id, { name: 'from-standby' })
  assert.equal(asleep.state, 'Standby')
  for (const one of [running.id, asleep.id]) await client.instances.delete(one)
})

test('restore goes back in place: same id, name and MAC, the snapshot for the rest; never while it runs', async () => {
  await using instance = await fork('restored')
  const { network } = await client.instances.get(instance.id)
  const own = await client.instances.snapshots.create(instance.id, { kind: 'Standby', name: 'own' })
  await shell(server, instance.id, 'echo later > /root/file')
  await assert.rejects(client.instances.snapshots.restore(own.id, { id: instance.id }), refusedWith(409, /Running/))
  await client.instances.standby(instance.id)
  await assert.rejects(
    client.instances.snapshots.restore(snapshotId, { id: instance.id }),
    refusedWith(400, /belongs to the instance origin/),
  )
  const restored = await client.instances.snapshots.restore(own.id, { id: instance.id })
  countVm('restore')
  assert.deepEqual([restored.id, restored.name, restored.state, restored.network?.mac], [instance.id, 'restored', 'Running', network?.mac])
  assert.equal(await shell(server, instance.id, 'cat /root/file; hostname'), 'before\nrestored')
  await client.snapshots.delete(own.id)
})

test('a Stopped snapshot holds the disks, restores in place and runs on another hypervisor', async () => {
  await using instance = await fork('disks')
  await assert.rejects(client.instances.snapshots.create(instance.id, { kind: 'Stopped' }), refusedWith(409, /Stopped/))
  await shell(server, instance.id, 'echo on-disk > /root/file; sync')
  await client.instances.stop(instance.id)
  await assert.rejects(client.instances.snapshots.create(instance.id, { kind: 'Standby' }), refusedWith(409, /Running or Standby/))
  const snapshot = await client.instances.snapshots.create(instance.id, { kind: 'Stopped', name: 'disks' })
  assert.equal(snapshot.kind, 'Stopped')

  const elsewhere = await client.snapshots.fork(snapshot.id, {
    name: 'elsewhere',
    target_state: 'Running',
    target_hypervisor: 'qemu-microvm',
  })
  countVm('boot on microvm')
  assert.equal(elsewhere.hypervisor, 'qemu-microvm')
  assert.equal(await shell(server, elsewhere.id, 'cat /root/file'), 'on-disk')
  await client.instances.delete(elsewhere.id)

  await client.instances.start(instance.id, {})
  await untilRunning(server, instance.id)
  await shell(server, instance.id, 'echo overwritten > /root/file; sync')
  await client.instances.stop(instance.id)
  assert.equal((await client.instances.snapshots.restore(snapshot.id, { id: instance.id })).state, 'Stopped')
  await client.instances.start(instance.id, {})
  await untilRunning(server, instance.id)
  assert.equal(await shell(server, instance.id, 'cat /root/file'), 'on-disk')
  await client.snapshots.delete(snapshot.id)
})

test('what a snapshot can not become is refused before anything is made', async () => {
  const before = (await client.instances.list()).length
  await assert.rejects(
    client.snapshots.fork(snapshotId, { name: 'x', target_hypervisor: 'qemu-microvm' }),
    refusedWith(400, /target_hypervisor/),
  )
  await assert.rejects(client.snapshots.fork(snapshotId, { name: 'origin' }), refusedWith(409, /origin is taken/))
  await assert.rejects(client.snapshots.fork(snapshotId, { name: 'Not A Name' }), refusedWith(400, /name/))
  await assert.rejects(client.snapshots.fork('nosuchsnapshot', { name: 'x' }), refusedWith(404, /nosuchsnapshot/))
  await assert.rejects(client.snapshots.fork(snapshotId, { name: '../x' }), refusedWith(400, /name/))
  assert.equal((await client.instances.list()).length, before)
})

test('snapshot names are unique for their source: of two at once one wins', async () => {
  const attempts = await Promise.allSettled([1, 2].map(() => client.instances.snapshots.create(origin, { kind: 'Standby', name: 'twice' })))
  const made = attempts.flatMap((attempt) => (attempt.status === 'fulfilled' ? [attempt.value] : []))
  const refused = attempts.flatMap((attempt) => (attempt.status === 'rejected' ? [attempt.reason as unknown] : []))
  assert.equal(made.length, 1)
  assert.ok(refusedWith(409, /twice/)(refused[0]))
  const nameless = await Promise.all([1, 2].map(() => client.instances.snapshots.create(origin, { kind: 'Standby', name: '' })))
  for (const one of nameless) await client.snapshots.delete(one.id)
  await using other = await fork('namesake')
  const same = await client.instances.snapshots.create(other.id, { kind: 'Standby', name: 'twice' })
  for (const one of [made[0]?.id ?? '', same.id]) await client.snapshots.delete(one)
  const again = await client.instances.snapshots.create(origin, { kind: 'Standby', name: 'twice' })
  await client.snapshots.delete(again.id)
})

test('a volume that is written to forbids snapshots and forks; one that is only read does not', async () => {
  const volume = await client.volumes.create({ name: 'data', size_gb: 1 })
  const writer = await runMachine(server, { name: 'volume-writer', volumes: [{ volume_id: volume.id, mount_path: '/data' }] })
  await shell(server, writer, 'echo stored > /data/file; sync')
  await assert.rejects(client.instances.snapshots.create(writer, { kind: 'Standby' }), refusedWith(501, new RegExp(volume.id)))
  await assert.rejects(client.instances.fork(writer, { name: 'no', from_running: true }), refusedWith(501, new RegExp(volume.id)))
  await assert.rejects(client.volumes.delete(volume.id), refusedWith(409, /in use/))
  await client.instances.delete(writer)

  const reader = await runMachine(server, { name: 'volume-reader', volumes: [{ volume_id: 'data', mount_path: '/data', readonly: true }] })
  assert.equal(await shell(server, reader, 'cat /data/file; touch /data/x 2>/dev/null || echo read-only'), 'stored\nread-only')
  const snapshot = await client.instances.snapshots.create(reader, { kind: 'Standby' })
  const forked = await client.snapshots.fork(snapshot.id, { name: 'volume-fork' })
  countVm('fork')
  assert.equal(await shell(server, forked.id, 'cat /data/file'), 'stored')
  for (const one of [reader, forked.id]) await client.instances.delete(one)
  await assert.rejects(client.volumes.delete(volume.id), refusedWith(409, /snapshot/))
  await client.snapshots.delete(snapshot.id)
  await client.volumes.delete(volume.id)
})

test('the events of an instance tell the steps of a snapshot and how long the source stood still', async () => {
  const events = await eventsOf(server, origin)
  const steps = events.filter((event) => event.flow === 'snapshot.create').map((event) => event.step)
  for (const step of ['stage', 'prove-agent', 'capture', 'source-paused', 'record', 'commit'])
    assert.ok(steps.includes(step), `${step} in ${steps.join(', ')}`)
})
