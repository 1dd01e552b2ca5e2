// Volumes of real machines: attached and detached between two starts, and read below layers of the machines' own.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

/** A running machine without volumes, of the type that can be given no device while it runs, and two volumes. */
let id = ''
const volumes = { data: '', shared: '' }
before(async () => {
  for (const name of ['data', 'shared'] as const) volumes[name] = (await client.volumes.create({ name, size_gb: 1 })).id
  id = await runMachine(server, { name: 'origin', hypervisor: 'qemu-microvm' })
})

async function restarted(): Promise<void> {
  await client.instances.start(id, {})
  await untilRunning(server, id)
}

test('a volume is attached to a stopped machine, written to when it has started, and gone when it was detached', async () => {
  const attach = { id: 'origin', mount_path: '/srv/data' }
  await assert.rejects(client.instances.volumes.attach('data', attach), refusedWith(409, /stop it first.*Running/))
  await client.instances.stop(id)
  const attached = await client.instances.volumes.attach('data', attach)
  assert.deepEqual([attached.state, attached.volumes], ['Stopped', [{ volume_id: volumes.data, mount_path: '/srv/data', readonly: false }]])
  assert.deepEqual((await client.volumes.get('data')).attachments, [{ instance_id: id, mount_path: '/srv/data', readonly: false }])
  await assert.rejects(client.instances.volumes.attach('data', attach), refusedWith(409, /already/))
  await assert.rejects(client.volumes.delete('data'), refusedWith(409, /detach/))

  // Attached last, mounted first: its path is the parent of the other's.
  await client.instances.volumes.attach('shared', { id, mount_path: '/srv' })
  await restarted()
  await shell(server, id, 'echo stored >/srv/data/file; echo shared >/srv/file')
  assert.equal(await shell(server, id, 'cd /; cat /srv/file /srv/data/file; grep -c " /srv" /proc/mounts'), 'shared\nstored\n2')
  await assert.rejects(client.instances.volumes.detach('data', { id }), refusedWith(409, /stop it first/))
  await assert.rejects(client.instances.snapshots.create(id, { kind: 'Standby' }), refusedWith(501, /writes to the volume/))

  await client.instances.stop(id)
  await client.instances.volumes.detach('shared', { id })
  const detached = await client.instances.volumes.detach('data', { id })
  assert.equal(detached.volumes, undefined)
  assert.equal((await client.volumes.get('data')).attachments, undefined)
  await assert.rejects(client.instances.volumes.detach('data', { id }), refusedWith(404, /not attached/))
  await restarted()
  assert.equal(await shell(server, id, 'ls -A /srv; grep -c " /srv" /proc/mounts || true'), '0')
})

test('what a snapshot reads can not be written to until it is deleted, also when nothing else has it any more', async () => {
  await client.instances.stop(id)
  await client.instances.volumes.attach('data', { id, mount_path: '/data', readonly: true })
  await restarted()
  assert.equal(await shell(server, id, 'cat /data/file; touch /data/x 2>/dev/null || echo read-only'), 'stored\nread-only')
  await client.instances.standby(id)
  await assert.rejects(client.instances.volumes.detach('data', { id }), refusedWith(409, /stop it first.*Standby/))
  const snapshot = await client.instances.snapshots.create(id, { kind: 'Standby' })
  await client.instances.stop(id)
  await client.instances.volumes.detach('data', { id })

  await assert.rejects(client.instances.volumes.attach('data', { id, mount_path: '/data' }), refusedWith(409, new RegExp(snapshot.id)))
  // The snapshot's memory goes on over the volume as it was.
  const fork = await client.snapshots.fork(snapshot.id, { name: 'fork' })
  countVm('fork')
  assert.equal(await shell(server, fork.id, 'cat /data/file'), 'stored')
  await client.instances.snapshots.restore(snapshot.id, { id })
  countVm('restore')
  assert.equal(await shell(server, id, 'cat /data/file'), 'stored')
  assert.equal((await client.volumes.get('data')).attachments?.length, 2)
  await client.instances.delete(fork.id)
  await client.snapshots.delete(snapshot.id)
  await client.instances.stop(id)
  await client.instances.volumes.detach('data', { id })
  await client.instances.volumes.attach('data', { id, mount_path: '/data' })
  await client.instances.volumes.detach('data', { id })
})

test('what is written over a volume stays in the layer of its machine: others, the volume and later machines do not see it', async () => {
  const layered = { volume_id: 'data', mount_path: '/layered', readonly: true, overlay: true, overlay_size: '64MB' }
  const writer = await runMachine(server, {
    name: 'layered',
    volumes: [layered, { ...layered, volume_id: 'shared', mount_path: '/other' }],
  })
  const { volumes: seen } = await client.instances.get(writer)
  assert.deepEqual(seen?.[0], { ...layered, volume_id: volumes.data, overlay_size: '64.0 MB' })
  await shell(server, writer, 'echo changed >>/layered/file; echo new >/layered/new; rm /other/file; echo disk >/root/disk')
  const look = 'cat /layered/file /layered/new; ls /other; cat /root/disk'
  const changed = 'stored\nchanged\nnew\ndata\nlost+found\ndisk'
  assert.equal(await shell(server, writer, look), changed)

  // The layer is as large as was asked for, and full when it is full.
  const full = await shell(server, writer, 'dd if=/dev/zero of=/layered/big bs=1M count=80 2>&1 | grep -c "No space"; rm /layered/big')
  assert.equal(full, '1')

  await client.instances.stop(writer)
  await client.instances.start(writer, {})
  await untilRunning(server, writer)
  assert.equal(await shell(server, writer, look), changed)
  await client.instances.standby(writer)
  await client.instances.restore(writer)
  countVm('restore')
  assert.equal(await shell(server, writer, look), changed)

  // A fork begins with the layer of its source, and then has its own.
  const fork = await client.instances.fork(writer, { name: 'layered-fork', from_running: true })
  countVm('fork')
  assert.equal(await shell(server, fork.id, look), changed)
  await shell(server, fork.id, 'echo fork >/layered/new')
  await shell(server, writer, 'echo source >/layered/new; echo source >/other/file')
  assert.equal(await shell(server, fork.id, 'cat /layered/new; ls /other; sync'), 'fork\ndata\nlost+found')
  const snapshot = await client.instances.snapshots.create(fork.id, { kind: 'Standby' })
  await client.instances.delete(fork.id)
  await assert.rejects(client.volumes.delete('data'), refusedWith(409, /in use/))

  // Of a snapshot both comes back: with its memory, and from its disks alone.
  for (const target of ['Running', 'Stopped'] as const) {
    const again = await client.snapshots.fork(snapshot.id, { name: 'again', target_state: target })
    if (target === 'Stopped') await client.instances.start(again.id, {})
    await untilRunning(server, again.id)
    assert.equal(await shell(server, again.id, 'cat /layered/file /layered/new; ls /other'), 'stored\nchanged\nfork\ndata\nlost+found')
    await client.instances.delete(again.id)
  }
  await client.snapshots.delete(snapshot.id)
  await client.instances.delete(writer)
  await client.instances.volumes.attach('data', { id, mount_path: '/data', readonly: true })
  await restarted()
  assert.equal(await shell(server, id, 'cat /data/file; ls /data'), 'stored\nfile\nlost+found')
})

test('a layer is added to a machine that was made without one, and what is on its disk stays', async () => {
  await shell(server, id, 'echo kept >/root/kept')
  await client.instances.stop(id)
  await client.instances.volumes.detach('data', { id })
  // Fields that the client knows of a volume at creation alone.
  const overlay = { readonly: true, overlay: true, overlay_size: '32MB' }
  await client.instances.volumes.attach('data', { id, mount_path: '/data', ...overlay })
  await client.instances.volumes.attach('shared', { id, mount_path: '/shared', ...overlay })
  await restarted()
  await shell(server, id, 'echo mine >/data/file; echo mine >/shared/file')
  await client.instances.stop(id)
  await client.instances.volumes.detach('data', { id })
  await restarted()
  assert.equal(await shell(server, id, 'cat /root/kept /shared/file; ls -A /data'), 'kept\nmine')
  // One that is attached again begins with an empty layer.
  await client.instances.stop(id)
  await client.instances.volumes.attach('data', { id, mount_path: '/data', ...overlay })
  await restarted()
  assert.equal(await shell(server, id, 'cat /data/file /shared/file'), 'stored\nmine')
})
