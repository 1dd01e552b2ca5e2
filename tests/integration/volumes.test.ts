// Volumes of real machines: attached and detached between two starts.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { runMachine, shell, untilRunning } from '../support/machine.ts'
import { refusedWith } from '../support/refused.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
const { client } = server
after(() => server[Symbol.asyncDispose]())

/** A running machine without volumes, and two volumes. */
let id = ''
const volumes = { data: '', shared: '' }
before(async () => {
  for (const name of ['data', 'shared'] as const) volumes[name] = (await client.volumes.create({ name, size_gb: 1 })).id
  id = await runMachine(server, { name: 'origin' })
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
  assert.equal(await shell(server, id, 'ls -A /srv/data; grep -c " /srv" /proc/mounts || true'), '0')
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
