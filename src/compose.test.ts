// What a server makes of a data directory that people, crashes or other hosts have changed: it starts, what is whole works, what is not is told
// where users look and can be deleted, and nothing outside is read, changed or deleted. The server is a real one; no machine is booted.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, truncate, unlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { aRecord } from '../tests/support/instance-context.ts'
import { aSnapshot, putInstance, putSnapshot } from '../tests/support/records.ts'
import { startServer } from '../tests/support/server.ts'
import { createClient, type Client, type Unreadable } from './client/client.ts'
import { dataLayout } from './files/layout.ts'
import { writeRecord } from './files/stage.ts'
import { createOverlay, type Overlay } from './hypervisors/qemu/qcow2.ts'
import { newId } from './platform/ids.ts'

const MIB = 1024 ** 2
const server = await startServer()
const layout = dataLayout(server.dataDirectory)
const outside = await mkdtemp(path.join(os.tmpdir(), 'hypeman-outside-'))
after(async () => {
  await server[Symbol.asyncDispose]()
  await rm(outside, { recursive: true })
})

/** Lets `change` work on a data directory without instances and snapshots while no server runs. */
async function whileStopped(change: () => Promise<unknown>): Promise<void> {
  await server.stop()
  for (const things of [layout.instances, layout.snapshots, layout.staging, layout.trash]) {
    await rm(things, { recursive: true })
    await mkdir(things)
  }
  await change()
  await server.restart()
}

function ours(): Client {
  return createClient({ baseUrl: server.url, token: () => server.token })
}

async function unreadable(): Promise<Unreadable[]> {
  return (await ours().unreadable()).toSorted((one, other) => one.path.localeCompare(other.path))
}

const refusedWith = (status: number, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof APIError, String(error))
  assert.deepEqual([error.status, message.test(error.message)], [status, true], error.message)
  return true
}

async function canary(): Promise<string> {
  const directory = await mkdtemp(path.join(outside, 'c-'))
  await writeFile(path.join(directory, 'canary'), 'alive')
  return directory
}

async function baseDigest(): Promise<string> {
  const image = (await server.client.images.list()).find(({ name }) => name.includes('hypeman/base'))
  assert.ok(image?.status === 'ready')
  return image.digest
}

test('instances whose records are damaged are listed as Unknown with the reason, hide no other, and can be deleted', async () => {
  const good = aRecord()
  const [empty, cut, newer] = [newId(), newId(), newId()]
  await whileStopped(async () => {
    await putInstance(layout, good)
    const write = async (id: string, text: string): Promise<void> => {
      await mkdir(layout.instance(id))
      await writeFile(path.join(layout.instance(id), 'record.json'), text)
    }
    await write(empty, '')
    await write(cut, JSON.stringify({ ...aRecord(), id: cut }).slice(0, 99))
    await write(newer, JSON.stringify({ ...aRecord(), id: newer, version: 7 }))
    await writeFile(path.join(layout.instances, 'notes.txt'), 'mine')
  })
  const listed = new Map((await server.client.instances.list()).map((one) => [one.id, one]))
  assert.deepEqual(new Set(listed.keys()), new Set([good.id, empty, cut, newer, 'notes.txt']))
  assert.equal(listed.get(good.id)?.state, 'Stopped')
  for (const [id, reason] of [
    [empty, /record\.json is empty; put a good copy back/],
    [cut, /record\.json was cut off, damaged or edited/],
    [newer, /record\.json has version 7, and this hypeman knows instance records up to version \d+: run the version that wrote it/],
    ['notes.txt', /notes\.txt is no directory and not of this server/],
  ] as const) {
    const view = await server.client.instances.get(id)
    assert.deepEqual([view.state, listed.get(id)?.state], ['Unknown', 'Unknown'])
    assert.match(view.state_error ?? '', reason)
    await assert.rejects(server.client.instances.start(id, {}), refusedWith(409, reason))
    assert.match(await server.log(), reason)
  }
  const told = await unreadable()
  assert.ok(told.every(({ kind }) => kind === 'instance'))
  assert.deepEqual(
    new Map(told.map(({ id, newer: isNewer }) => [id, isNewer])),
    new Map([
      [empty, false],
      [cut, false],
      [newer, true],
      ['notes.txt', false],
    ]),
  )
  for (const id of [empty, cut, newer, 'notes.txt', good.id]) await server.client.instances.delete(id)
  assert.deepEqual([await readdir(layout.instances), await readdir(layout.trash), await unreadable()], [[], [], []])
})

test('snapshots, volumes and images that can not be read are told, hide no other, and can be deleted or made again', async () => {
  const good = aSnapshot()
  const bad = newId()
  const digest = await baseDigest()
  const imageDirectory = layout.image(digest.slice('sha256:'.length))
  const [whole, broken] = await Promise.all(['whole', 'broken'].map((name) => server.client.volumes.create({ name, size_gb: 1 })))
  await whileStopped(async () => {
    await putSnapshot(layout, good)
    await mkdir(layout.snapshot(bad))
    await writeFile(path.join(layout.snapshot(bad), 'snapshot.json'), JSON.stringify({ ...good, id: bad, sizeBytes: 'much' }))
    await truncate(path.join(layout.volume(broken?.id ?? ''), 'disk.raw'), MIB)
    await truncate(path.join(imageDirectory, 'rootfs.erofs'), 4096)
    await writeFile(path.join(layout.imageReferences, 'README'), 'mine')
  })
  assert.deepEqual(
    (await server.client.snapshots.list()).map(({ id }) => id),
    [good.id],
  )
  assert.deepEqual(
    (await server.client.volumes.list()).map(({ id }) => id),
    [whole?.id],
  )
  const told = await unreadable()
  assert.deepEqual(
    told.map(({ kind, path: at }) => [kind, at]),
    [
      ['image reference', path.join(layout.imageReferences, 'README')],
      ['snapshot', layout.snapshot(bad)],
      ['volume', layout.volume(broken?.id ?? '')],
    ],
    'the base image was made again from its archive',
  )
  assert.match(told[1]?.reason ?? '', /snapshot\.json is no snapshot record: sizeBytes: /)
  assert.match(told[2]?.reason ?? '', /disk\.raw has 1048576 bytes, not 1 GiB/)
  await assert.rejects(server.client.snapshots.get(bad), refusedWith(409, /sizeBytes/))
  await assert.rejects(server.client.volumes.get(broken?.id ?? ''), refusedWith(409, /1048576 bytes/))
  assert.equal(await baseDigest(), digest)
  for (const id of [bad, good.id]) await server.client.snapshots.delete(id)
  for (const volume of [whole, broken]) await server.client.volumes.delete(volume?.id ?? '')
  await unlink(path.join(layout.imageReferences, 'README'))
  assert.deepEqual([await readdir(layout.snapshots), await readdir(layout.volumes)], [[], []])
})

test('as long as a record can not be read, no image is collected: it may be what the record names', async () => {
  const digest = await baseDigest()
  const [instance, removed] = [newId(), aRecord()]
  await whileStopped(async () => {
    await putInstance(layout, removed)
    await mkdir(layout.instance(instance))
    await writeFile(
      path.join(layout.instance(instance), 'record.json'),
      JSON.stringify({ ...aRecord(), id: instance, version: aRecord().version + 1 }),
    )
  })
  await server.client.images.delete('hypeman/base')
  await server.client.instances.delete(removed.id)
  const rootfs = path.join(layout.image(digest.slice('sha256:'.length)), 'rootfs.erofs')
  assert.ok((await stat(rootfs)).size > 0)
  await whileStopped(async () => undefined)
  assert.equal(await baseDigest(), digest)
})

test('two instances of one name are both there, found by their ids, and one of them is found by name again when the other is gone', async () => {
  const [one, other] = [
    { ...aRecord(), name: 'twin' },
    { ...aRecord(), name: 'twin' },
  ]
  await whileStopped(async () => {
    await putInstance(layout, one)
    await putInstance(layout, other)
  })
  await assert.rejects(server.client.instances.get('twin'), refusedWith(409, /have the name twin; give an id/))
  assert.equal((await server.client.instances.get(other.id)).id, other.id)
  await server.client.instances.delete(one.id)
  assert.equal((await server.client.instances.get('twin')).id, other.id)
  await server.client.instances.delete('twin')
})

test('links in place of directories and records are never followed, and deleting them deletes the link alone', async () => {
  const there = await canary()
  const [linked, inside, recordLink, snapshotLink] = [newId(), aRecord(), newId(), aSnapshot()]
  await whileStopped(async () => {
    await putInstance(layout, { ...aRecord(), id: linked })
    await rename(layout.instance(linked), path.join(there, 'instance'))
    await symlink(path.join(there, 'instance'), layout.instance(linked))
    await symlink(there, path.join(await putInstance(layout, inside), 'more'))
    await mkdir(layout.instance(recordLink))
    await writeRecord(path.join(there, 'record.json'), { ...aRecord(), id: recordLink }, null)
    await symlink(path.join(there, 'record.json'), path.join(layout.instance(recordLink), 'record.json'))
    await putSnapshot(layout, snapshotLink)
    await rename(layout.snapshot(snapshotLink.id), path.join(there, 'snapshot'))
    await symlink(path.join(there, 'snapshot'), layout.snapshot(snapshotLink.id))
    for (const area of [layout.staging, layout.trash]) await symlink(there, path.join(area, 'replace-link'))
  })
  const before = (await readdir(there, { recursive: true })).toSorted()
  const told = await unreadable()
  assert.deepEqual(new Set(told.map(({ id }) => id)), new Set([linked, inside.id, recordLink, snapshotLink.id]))
  for (const { reason } of told) assert.match(reason, /is a link, which is never followed/)
  assert.deepEqual([await readdir(layout.staging), await readdir(layout.trash)], [[], []])
  for (const id of [linked, inside.id, recordLink]) await server.client.instances.delete(id)
  await server.client.snapshots.delete(snapshotLink.id)
  assert.deepEqual([await readdir(layout.instances), await readdir(layout.snapshots)], [[], []])
  assert.deepEqual((await readdir(there, { recursive: true })).toSorted(), before)
  assert.equal(await readFile(path.join(there, 'canary'), 'utf8'), 'alive')
})

test('a payload that is missing, holds a link, or names a disk outside is refused before anything is made of it', async () => {
  const digest = await baseDigest()
  const instance = { ...aRecord(), image: { name: 'docker.io/hypeman/base:latest', digest, platform: 'linux/amd64' } }
  const [gone, linked, elsewhere, guessed] = [1, 2, 3, 4].map(() => aSnapshot({ instance }))
  assert.ok(gone !== undefined && linked !== undefined && elsewhere !== undefined && guessed !== undefined)
  const overlay = { sizeBytes: 16 * MIB, backing: 'disk-0.raw', backingFormat: 'raw' } as const
  const layer = (change: Partial<Overlay>) => (payload: string) =>
    createOverlay({ ...overlay, ...change, file: path.join(payload, 'disk-1.qcow2') }, false)
  await whileStopped(async () => {
    for (const one of [gone, linked]) await putSnapshot(layout, one, 16 * MIB)
    await putSnapshot(layout, elsewhere, 16 * MIB, layer({ backing: '/etc/hostname' }))
    await putSnapshot(layout, guessed, 16 * MIB, layer({ backingFormat: 'qcow2' }))
    await rm(path.join(layout.snapshot(gone.id), 'guest'), { recursive: true })
    await symlink('/etc/hostname', path.join(layout.snapshot(linked.id), 'guest', 'disk-1.qcow2'))
  })
  for (const [{ id }, reason] of [
    [gone, /guest is missing; put it back/],
    [linked, /disk-1\.qcow2 is a link, which is never followed/],
    [elsewhere, /disk-1\.qcow2 names "\/etc\/hostname" \(raw\), which is no layer below it/],
    [guessed, /disk-1\.qcow2 names "disk-0\.raw" \(qcow2\), which is no layer below it/],
  ] as const) {
    await assert.rejects(server.client.snapshots.fork(id, { name: 'no', target_state: 'Stopped' }), refusedWith(409, reason))
    await server.client.snapshots.delete(id)
  }
  assert.deepEqual([await readdir(layout.instances), await readdir(layout.staging)], [[], []])
})

test('of a snapshot from another host, what is possible works, and what is not says why', async () => {
  const missing = { name: 'docker.io/library/elsewhere:1', digest: `sha256:${'0'.repeat(64)}`, platform: 'linux/amd64' }
  const stamp = { hypervisor: 'qemu', version: '99.0.0', machineType: 'q35', accelerator: 'tcg' } as const
  const noImage = aSnapshot({ instance: { ...aRecord(), image: missing, kernelId: 'f'.repeat(24) } })
  const otherQemu = aSnapshot({ kind: 'Standby', instance: { ...aRecord(), stamp } })
  const otherVmm = aSnapshot({ instance: { ...aRecord(), hypervisor: 'firecracker' } })
  const noVolume = aSnapshot({
    instance: { ...aRecord(), volumes: [{ volumeId: 'nowhere', mountPath: '/data', readOnly: true, overlay: null }] },
  })
  const all = [noImage, otherQemu, otherVmm, noVolume]
  await whileStopped(async () => {
    for (const one of all) await putSnapshot(layout, one, 16 * MIB)
  })
  assert.equal((await server.client.snapshots.list()).length, all.length)
  const fork = (id: string, name: string, target?: 'Running' | 'Stopped') =>
    server.client.snapshots.fork(id, { name, ...(target === undefined ? {} : { target_state: target }) })
  await assert.rejects(
    fork(noImage.id, 'a', 'Running'),
    refusedWith(404, /the image docker\.io\/library\/elsewhere:1 \(sha256:0+\) .* is gone; pull it again/),
  )
  await assert.rejects(
    fork(otherQemu.id, 'a'),
    refusedWith(409, /written by qemu 99\.0\.0 \(q35, tcg\), here is qemu .*; use target_state Stopped/),
  )
  await assert.rejects(fork(otherVmm.id, 'a'), refusedWith(503, /firecracker can't run here: .*hypeman hypervisor install firecracker/))
  await assert.rejects(fork(noVolume.id, 'a'), refusedWith(404, /volume nowhere is gone/))
  assert.deepEqual([await readdir(layout.instances), await readdir(layout.staging)], [[], []])
  for (const { id } of [noImage, otherQemu]) assert.equal((await fork(id, `f-${id.slice(0, 8)}`, 'Stopped')).state, 'Stopped')
  await assert.rejects(
    server.client.instances.snapshots.restore(noImage.id, { id: noImage.sourceInstanceId }),
    refusedWith(404, /there is no instance/),
  )
  for (const { id } of await server.client.instances.list()) await server.client.instances.delete(id)
  for (const { id } of all) await server.client.snapshots.delete(id)
})

test('a restore that was cut off and can not be undone keeps what it has, and the server starts', async () => {
  const [lost, odd] = [newId(), newId()]
  const instance = { ...aRecord(), restoring: odd }
  await whileStopped(async () => {
    for (const id of [lost, odd]) await mkdir(path.join(layout.staging, `replace-${id}`, 'guest'), { recursive: true })
    await writeFile(path.join(layout.staging, `replace-${odd}`, 'journal.json'), JSON.stringify({ id: odd, instanceId: '../../outside' }))
    await mkdir(path.join(layout.staging, 'other'))
    await putInstance(layout, instance)
  })
  assert.deepEqual(await readdir(layout.staging), [`replace-${odd}`])
  assert.match(
    await server.log(),
    /journal\.json is no restore journal: instanceId: not a plain name.*can not be undone; the state from before it is kept/,
  )
  await server.client.instances.delete(instance.id)
  await rm(path.join(layout.staging, `replace-${odd}`), { recursive: true })
})

test('records from a clock that was ahead are listed by their time, expire by it, and keep nothing from being made', async () => {
  const future = new Date(Date.now() + 3_600_000).toISOString()
  const [ahead, present] = [{ ...aRecord(), createdAt: future, expiresAt: future }, aRecord()]
  const [late, early] = [aSnapshot({ createdAt: future }), aSnapshot()]
  await whileStopped(async () => {
    for (const one of [ahead, present]) await putInstance(layout, one)
    for (const one of [late, early]) await putSnapshot(layout, one, 16 * MIB)
  })
  assert.deepEqual(
    (await server.client.instances.list()).map(({ id }) => id),
    [present.id, ahead.id],
  )
  assert.deepEqual(
    (await server.client.snapshots.list()).map(({ id }) => id),
    [early.id, late.id],
  )
  assert.equal((await server.client.snapshots.fork(late.id, { name: 'later', target_state: 'Stopped' })).state, 'Stopped')
  for (const { id } of await server.client.instances.list()) await server.client.instances.delete(id)
  for (const { id } of [late, early]) await server.client.snapshots.delete(id)
})
