// The official client, unmodified, through the whole job: image, instance, exec, copy, snapshot, fork, restore, delete.

import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { cpFromInstance, cpToInstance } from '@onkernel/hypeman/lib/cp'
import { shell, small, untilRunning } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

test('the official client takes an image to an instance, a snapshot, a fork and back', async () => {
  await using server = await startServer()
  const { client } = server

  assert.deepEqual(await client.health.check(), { status: 'ok' })
  const capabilities = await client.capabilities.get()
  assert.ok(capabilities.runtimes.some((runtime) => runtime.name === 'qemu' && runtime.available && runtime.features.includes('fork')))

  const image = await client.images.get('hypeman/base')
  assert.equal(image.status, 'ready')
  assert.match(image.digest, /^sha256:[0-9a-f]{64}$/)
  assert.equal((await client.images.create({ name: 'hypeman/base' })).digest, image.digest)

  const created = await client.instances.create({ ...small, name: 'origin', env: { COLOR: 'green' }, tags: { team: 'a' } })
  assert.equal(created.state, 'Initializing')
  await untilRunning(server, created.id)
  const running = await client.instances.get('origin')
  assert.equal(running.state, 'Running')
  assert.equal(running.id, created.id)
  assert.equal(running.size, '192.0 MB')
  assert.deepEqual(running.env, { COLOR: 'green' })
  assert.deepEqual(
    (await client.instances.list({ tags: { team: 'a' } })).map((one) => one.name),
    ['origin'],
  )
  assert.deepEqual(await client.instances.list({ tags: { team: 'b' } }), [])

  await using files = await temporaryDirectory()
  const api = { baseURL: server.url, apiKey: server.token }
  await writeFile(path.join(files.path, 'note.json'), '{"a":1}')
  await cpToInstance(api, { instanceId: created.id, srcPath: path.join(files.path, 'note.json'), dstPath: '/root/note.json' })
  assert.equal(await shell(server, created.id, 'cat /root/note.json'), '{"a":1}')
  await cpFromInstance(api, { instanceId: created.id, srcPath: '/root/note.json', dstPath: path.join(files.path, 'back') })
  assert.equal(await readFile(path.join(files.path, 'back', 'note.json'), 'utf8'), '{"a":1}')
  assert.deepEqual(await client.instances.stat(created.id, { path: '/root/nothing' }), { exists: false })
  assert.equal((await client.instances.stat(created.id, { path: '/root/note.json' })).size, 7)

  const snapshot = await client.instances.snapshots.create(created.id, { kind: 'Standby', name: 'first', tags: { stage: 'one' } })
  assert.equal(snapshot.source_instance_id, created.id)
  assert.equal((await client.instances.get(created.id)).state, 'Running')
  assert.deepEqual(
    (await client.snapshots.list({ tags: { stage: 'one' } })).map((one) => one.id),
    [snapshot.id],
  )

  const fork = await client.snapshots.fork(snapshot.id, { name: 'copy' })
  countVm('fork')
  assert.equal(fork.state, 'Running')
  assert.equal(fork.expires_at, null)
  assert.notEqual(fork.network?.mac, running.network?.mac)
  assert.equal(await shell(server, fork.id, 'hostname; cat /root/note.json'), 'copy\n{"a":1}')

  await shell(server, created.id, 'echo changed > /root/note.json')
  assert.equal((await client.instances.standby(created.id)).state, 'Standby')
  const restored = await client.instances.snapshots.restore(snapshot.id, { id: created.id })
  countVm('restore')
  assert.equal(restored.state, 'Running')
  assert.equal(await shell(server, created.id, 'cat /root/note.json'), '{"a":1}')

  const lines: string[] = []
  for await (const line of await client.instances.logs(created.id, { tail: 5 })) lines.push(line)
  assert.ok(lines.includes('hypeman/base is up'), lines.join('\n'))

  await client.instances.delete(created.id)
  await assert.rejects(client.instances.get(created.id), (error) => error instanceof APIError && error.status === 404)
  await assert.rejects(
    client.instances.snapshots.restore(snapshot.id, { id: created.id }),
    (error) => error instanceof APIError && error.status === 404,
  )
  const late = await client.snapshots.fork(snapshot.id, { name: 'late' })
  countVm('fork')
  assert.equal(late.state, 'Running')
  await client.snapshots.delete(snapshot.id)
  assert.equal(await shell(server, late.id, 'cat /root/note.json'), '{"a":1}')
  assert.deepEqual(await client.snapshots.list(), [])
})

async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-files-'))
  return { path: directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
}
