// What every hypervisor has to do with devices: volumes, limits, networks, and disks that come from another one.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { once } from 'node:events'
import type { HypervisorWorld } from './hypervisor-scenarios.ts'
import type { Outcome } from './hypervisor-table.ts'
import { runMachine, shell, small, untilRunning } from './machine.ts'
import { refusedWith } from './refused.ts'
import { countVm } from './vm-count.ts'

export async function volumes({ server, hypervisor, body }: HypervisorWorld): Promise<void> {
  const { client } = server
  const [data, model] = [`${hypervisor}-data`, `${hypervisor}-model`]
  for (const name of [data, model]) await client.volumes.create({ name, size_gb: 1 })
  const id = await runMachine(server, {
    ...body,
    name: `${hypervisor}-volumes`,
    hypervisor: hypervisor as 'qemu',
    volumes: [
      { volume_id: data, mount_path: '/data' },
      { volume_id: model, mount_path: '/model', readonly: true, overlay: true, overlay_size: '100MB' },
    ],
  })
  await shell(server, id, 'echo written > /data/file; echo over > /model/file; sync')
  await assert.rejects(client.instances.snapshots.create(id, { kind: 'Standby' }), refusedWith(501, /writes to the volume/))
  await client.instances.stop(id)
  await client.instances.volumes.detach(data, { id })
  await client.instances.start(id, {})
  await untilRunning(server, id)
  assert.equal(await shell(server, id, 'cat /model/file; ls /data'), 'over')
  const { id: snapshot } = await client.instances.snapshots.create(id, { kind: 'Standby' })
  const copy = await client.snapshots.fork(snapshot, { name: `${hypervisor}-volumes-fork` })
  countVm('fork')
  assert.equal(await shell(server, copy.id, 'cat /model/file'), 'over')
  for (const gone of [copy.id, id]) await client.instances.delete(gone)
  await client.snapshots.delete(snapshot)
  for (const name of [data, model]) await client.volumes.delete(name)
}

export async function diskLimit({ server, hypervisor, body, features }: HypervisorWorld): Promise<Outcome> {
  const request = { ...small, ...body, name: `${hypervisor}-limited`, hypervisor: hypervisor as 'qemu', disk_io_bps: '2MB/s' }
  if (!features.has('disk-io-limit')) {
    await assert.rejects(server.client.instances.create(request), refusedWith(501, /disk_io_bps/))
    return 'refused'
  }
  const { id } = await server.client.instances.create(request)
  await untilRunning(server, id)
  const from = performance.now()
  await shell(server, id, 'dd if=/dev/zero of=/root/f bs=1M count=8 conv=fsync 2>/dev/null')
  const ms = performance.now() - from
  assert.ok(ms > 2_000, `8 MB at 2 MB/s took ${ms} ms`)
  await server.client.instances.delete(id)
  return 'done'
}

/** A guest reaches what listens on its host, and so does a fork of it, on an address or behind a NAT of its own. */
export async function network({ server, machine, hypervisor, snapshot }: HypervisorWorld): Promise<Outcome> {
  const { client } = server
  const { network: own } = await client.instances.get(machine)
  if (own?.enabled !== true) {
    await assert.rejects(
      client.instances.create({ ...small, name: `${hypervisor}-networked`, hypervisor: hypervisor as 'qemu' }),
      refusedWith(501, /network/),
    )
    return 'refused'
  }
  const host = createServer((_request, response) => response.end('hello from the host'))
  host.listen(0, '0.0.0.0')
  await once(host, 'listening')
  const address = host.address()
  assert.ok(address !== null && typeof address === 'object')
  const ask = `wget -q -O - http://$(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p'):${address.port}/`
  try {
    assert.equal(await shell(server, machine, ask), 'hello from the host')
    const fork = await client.snapshots.fork(snapshot, { name: `${hypervisor}-networked` })
    countVm('fork')
    assert.notEqual(fork.network?.mac, own.mac)
    assert.equal(await shell(server, fork.id, ask), 'hello from the host')
    await client.instances.delete(fork.id)
  } finally {
    host.close()
    host.closeAllConnections()
  }
  return 'done'
}

/** Disks go to another hypervisor and come back, where the server has another. */
export async function moves({ server, hypervisor, snapshot }: HypervisorWorld): Promise<Outcome> {
  const { client } = server
  const { runtimes } = await client.capabilities.get()
  const other = hypervisor === 'qemu' ? 'qemu-microvm' : 'qemu'
  if (!runtimes.some(({ name, available }) => name === other && available)) return 'not here'
  const stopped = await client.snapshots.fork(snapshot, { name: `${hypervisor}-still`, target_state: 'Stopped' })
  const { id: disks } = await client.instances.snapshots.create(stopped.id, { kind: 'Stopped' })
  const there = await client.snapshots.fork(disks, { name: `${hypervisor}-there`, target_state: 'Running', target_hypervisor: other })
  await untilRunning(server, there.id)
  assert.equal(await shell(server, there.id, 'cat /root/instant; echo there > /root/instant; sync'), 'before')
  await client.instances.stop(there.id)
  const body = { name: `${hypervisor}-back`, target_state: 'Running', target_hypervisor: hypervisor } as const
  const back = await client.instances.fork(there.id, body)
  await untilRunning(server, back.id)
  assert.equal((await client.instances.get(back.id)).hypervisor, hypervisor)
  assert.equal(await shell(server, back.id, 'cat /root/instant'), 'there')
  for (const { id } of [stopped, there, back]) await client.instances.delete(id)
  await client.snapshots.delete(disks)
  return 'done'
}
