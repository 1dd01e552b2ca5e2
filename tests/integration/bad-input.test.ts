// What can go wrong from outside: each gets a clear error, changes nothing, and leaves the server alive.

import assert from 'node:assert/strict'
import { readdir } from 'node:fs/promises'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { runMachine, small } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { vmmOf, vmmsOf } from '../support/vmm.ts'

// A guest that does not answer must be given up soon.
const server = await startServer({ TIMEOUTS__RESTORE: '3s' })
const { client } = server
after(() => server[Symbol.asyncDispose]())
let origin = ''
before(async () => {
  origin = await runMachine(server, { name: 'origin' })
})

const refusedWith = (status: number, code: string, message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof APIError, String(error))
  assert.equal(error.status, status, error.message)
  assert.equal((error.error as { readonly code?: string }).code, code)
  assert.match(error.message, message)
  return true
}

async function assertUnchanged(): Promise<void> {
  assert.deepEqual(
    (await client.instances.list()).map((one) => [one.name, one.state]),
    [['origin', 'Running']],
  )
  assert.deepEqual(vmmsOf(server), [vmmOf(server, origin)])
  assert.deepEqual(await readdir(path.join(server.dataDirectory, 'staging')), [])
}

/** A request as no typed client would send it. */
async function post(url: string, body: unknown): Promise<{ readonly status: number; readonly code: string; readonly message: string }> {
  const response = await fetch(server.url + url, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'application/json' },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
  return { status: response.status, ...((await response.json()) as { code: string; message: string }) }
}

const wrongBodies: readonly (readonly [what: string, body: unknown, code: string, message: RegExp])[] = [
  ['a name with dots', { ...small, name: '../etc' }, 'invalid_name', /name/],
  ['an empty name', { ...small, name: '' }, 'invalid_name', /name/],
  ['a name that is too long', { ...small, name: 'a'.repeat(64) }, 'invalid_name', /63/],
  ['a number as name', { ...small, name: 5 }, 'invalid_request', /name/],
  ['no image', { name: 'x' }, 'invalid_request', /image/],
  ['a size that is none', { ...small, name: 'x', size: 'much' }, 'invalid_size', /size/],
  ['a guest that is too small', { ...small, name: 'x', size: '1MB' }, 'invalid_size', /64MB/],
  ['no processors', { ...small, name: 'x', vcpus: 0 }, 'invalid_request', /vcpus/],
  ['text instead of a number', { ...small, name: 'x', vcpus: '2' }, 'invalid_request', /vcpus/],
  ['more processors than allowed', { ...small, name: 'x', vcpus: 1000 }, 'invalid_request', /at most/],
  [
    'a time to live and a time of death',
    { ...small, name: 'x', ttl: '1h', expires_at: '2100-01-01T00:00:00Z' },
    'invalid_request',
    /not both/,
  ],
  ['a time of death in the past', { ...small, name: 'x', expires_at: '2001-01-01T00:00:00Z' }, 'invalid_expires_at', /past/],
  ['a tag with a line break', { ...small, name: 'x', tags: { a: 'b\nc' } }, 'invalid_request', /tag/],
  ['a mount on a system directory', { ...small, name: 'x', volumes: [{ volume_id: 'v', mount_path: '/etc' }] }, 'not_found', /v/],
  ['a body that is no JSON', '{"name": ', 'invalid_request', /JSON/],
  ['a body that is a list', [], 'invalid_request', /object/],
]
for (const [what, body, code, message] of wrongBodies)
  test(`create with ${what} is refused`, async () => {
    const answer = await post('/instances', body)
    assert.deepEqual([answer.status, answer.code], [code === 'not_found' ? 404 : 400, code], answer.message)
    assert.match(answer.message, message)
    await assertUnchanged()
  })

test('an unknown hypervisor, and one that is not here, are refused', async () => {
  assert.equal((await post('/instances', { ...small, name: 'x', hypervisor: 'bochs' })).status, 400)
  const absent = await post('/instances', { ...small, name: 'x', hypervisor: 'firecracker' })
  assert.deepEqual([absent.status, absent.code], [503, 'host_unavailable'])
  assert.match(absent.message, /firecracker can't run here: .*hypeman hypervisor install firecracker/)
  await assertUnchanged()
})

test('what is not supported yet is said, not ignored', async () => {
  const answer = await post('/instances', { ...small, name: 'x', gpu: { profile: 'L40S-1Q' } })
  assert.deepEqual([answer.status, answer.code], [501, 'not_supported'])
  assert.match(answer.message, /gpu/)
  await assertUnchanged()
})

test('an image in a registry that nobody answers for is refused soon, and nothing is left', async () => {
  await assert.rejects(client.images.create({ name: '127.0.0.1:9/no/image:1' }), refusedWith(503, 'registry_unavailable', /127\.0\.0\.1:9/))
  await assert.rejects(
    client.instances.create({ ...small, name: 'x', image: '127.0.0.1:9/no/image:1' }),
    refusedWith(503, 'registry_unavailable', /127\.0\.0\.1:9/),
  )
  await assertUnchanged()
})

test('a name that is taken is refused, and the holder is untouched', async () => {
  await assert.rejects(client.instances.create({ ...small, name: 'origin' }), (error) => error instanceof APIError && error.status === 409)
  await assertUnchanged()
})

test("without a token, or with another server's, nothing is told", async () => {
  for (const headers of [{}, { authorization: 'Bearer nonsense' }, { authorization: 'Basic eDp5' }]) {
    const response = await fetch(`${server.url}/instances`, { headers })
    assert.equal(response.status, 401)
    assert.equal(((await response.json()) as { code: string }).code, 'unauthorized')
  }
  assert.equal((await fetch(`${server.url}/health`)).status, 200)
})

test('a VMM that hangs while it starts is given up in time, with the reason, and leaves nothing', async () => {
  const snapshot = await client.instances.snapshots.create(origin, { kind: 'Standby' })
  const fork = client.snapshots.fork(snapshot.id, { name: 'silent' })
  const frozen = await freezeNextVmm()
  try {
    await assert.rejects(fork, refusedWith(503, 'host_unavailable', /QEMU did not (answer|take over)/))
  } finally {
    frozen.thaw()
  }
  await client.snapshots.delete(snapshot.id)
  await assertUnchanged()
})

/** Stops the next VMM process that appears, as if its host had frozen it. */
async function freezeNextVmm(): Promise<{ thaw(): void }> {
  const known = new Set(vmmsOf(server))
  for (;;) {
    const pid = vmmsOf(server).find((one) => !known.has(one))
    if (pid !== undefined) {
      process.kill(pid, 'SIGSTOP')
      return { thaw: () => killIfThere(pid) }
    }
    await new Promise((resolve) => setImmediate(resolve))
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGCONT')
  } catch {
    // the server has ended it already
  }
}
