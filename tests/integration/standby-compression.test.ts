// Memory of instances in standby that is compressed, on a real server with stand-ins for its machines: what is asked for and shown, and everything that needs the
// memory while it is compressed, or lies there compressed.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import type { Instance } from '@onkernel/hypeman/resources/instances/instances.js'
import { isStandInMemory } from '../support/stand-in-hypervisor/files.ts'
import { ask, contentOf, standIn, startStandInServer } from '../support/stand-in-hypervisor/server.ts'
import { until } from '../support/until.ts'

const server = await startStandInServer()
after(() => server[Symbol.asyncDispose]())

/** What the official client's types do not have, the answers do. */
type Seen = Instance & {
  readonly standby_compression?: {
    readonly state: string
    readonly algorithm: string
    readonly level: number
    readonly starts_at?: string
    readonly error?: string
    readonly note?: string
    readonly compressed_size_bytes?: number
    readonly uncompressed_size_bytes?: number
  }
}

const inspect = async (name: string): Promise<Seen> => await server.client.instances.get(name)
const directoryOf = (id: string): string => path.join(server.dataDirectory, 'instances', id)
const memoryFiles = (id: string): string[] =>
  (readdirSync(directoryOf(id), { recursive: true }) as string[]).filter((name) => isStandInMemory(path.basename(name))).toSorted()

const zstd = { enabled: true, algorithm: 'zstd', level: 3 } as const

/** A running instance with something in its memory. */
async function running(name: string, body: object = {}): Promise<string> {
  const { id } = await server.client.instances.create({ ...standIn, name, ...body })
  assert.equal((await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })).state, 'Running')
  await ask(server, id, ['memory', `memory of ${name}`])
  return id
}

async function untilCompressed(name: string): Promise<Seen> {
  await until(`the memory of ${name} is compressed`, async () => {
    const { standby_compression: compression } = await inspect(name)
    assert.notEqual(compression?.state, 'error', String(compression?.error))
    return compression?.state === 'compressed'
  })
  const seen = await inspect(name)
  assert.deepEqual(
    memoryFiles(seen.id).map((file) => path.dirname(file)),
    ['compressed'],
  )
  return seen
}

async function asleep(name: string, body: object = {}): Promise<string> {
  const id = await running(name, body)
  await server.client.instances.standby(id, { compression: zstd })
  await untilCompressed(name)
  return id
}

const memoryOf = async (id: string): Promise<string> => (await contentOf(server, id)).memory.content

for (const [algorithm, level] of [
  ['zstd', 3],
  ['lz4', undefined],
] as const)
  test(`memory of a standby that asks for ${algorithm} lies there compressed alone, and a restore has all of it`, async () => {
    const id = await running(algorithm)
    const compression = { enabled: true, algorithm, ...(level === undefined ? {} : { level }) }
    const answer: Seen = await server.client.instances.standby(id, { compression })
    assert.equal(answer.standby_compression?.state, 'compressing')
    const { standby_compression: seen, state, has_snapshot: has } = await untilCompressed(algorithm)
    assert.deepEqual([state, has, seen?.algorithm, seen?.level], ['Standby', true, algorithm, level ?? 0])
    assert.ok((seen?.compressed_size_bytes ?? 0) > 0)
    assert.ok((seen?.uncompressed_size_bytes ?? 0) > 0)
    const restored: Seen = await server.client.instances.restore(id)
    assert.deepEqual([restored.state, restored.standby_compression], ['Running', undefined])
    assert.equal(await memoryOf(id), `memory of ${algorithm}`)
    assert.deepEqual(memoryFiles(id), [])
    await server.client.instances.standby(id)
    assert.equal((await inspect(id)).standby_compression, undefined, 'the next standby asks for nothing')
    await server.client.instances.delete(id)
  })

test('the policy of an instance holds for its standbys and snapshots, and what is asked for goes before it', async () => {
  const policy = { compression: zstd, standby_compression_delay: '1h' } as const
  const id = await running('ruled', { snapshot_policy: policy })
  const seen: Seen = await server.client.instances.standby(id)
  assert.deepEqual(seen.snapshot_policy, { ...policy, standby_compression_delay: '1h0m0s' })
  assert.equal(seen.standby_compression?.state, 'waiting')
  assert.ok(Date.parse(seen.standby_compression?.starts_at ?? '') > Date.now() + 3_000_000)
  await server.client.instances.restore(id)
  const off: Seen = await server.client.instances.standby(id, { compression: { enabled: false } })
  assert.equal(off.standby_compression, undefined)
  await server.client.instances.restore(id)
  await server.client.instances.standby(id, { compression_delay: '0s' })
  await untilCompressed('ruled')
  await server.client.instances.restore(id)
  const [byPolicy, without] = await Promise.all([
    server.client.instances.snapshots.create(id, { kind: 'Standby', name: 'by-policy' }),
    server.client.instances.snapshots.create(id, { kind: 'Standby', name: 'without', compression: { enabled: false } }),
  ])
  assert.deepEqual(byPolicy.compression, zstd)
  assert.equal(without.compression, undefined)
  const fork: Seen = await server.client.snapshots.fork(without.id, { name: 'heir' })
  assert.deepEqual(fork.snapshot_policy, seen.snapshot_policy)
  await server.client.instances.stop(id)
  const cold = await server.client.instances.snapshots.create(id, { kind: 'Stopped', name: 'cold' })
  assert.equal(cold.compression, undefined)
  for (const one of [byPolicy, without, cold]) await server.client.snapshots.delete(one.id)
  for (const one of [id, fork.id]) await server.client.instances.delete(one)
})

test('what can not be is refused before anything happens', async () => {
  const id = await running('refused')
  const refused =
    (code: string) =>
    (error: unknown): boolean =>
      error instanceof APIError && error.status === 400 && JSON.stringify(error.error).includes(code)
  const { instances } = server.client
  await assert.rejects(
    instances.standby(id, { compression: { enabled: true, algorithm: 'lz4', level: 10 } }),
    refused('invalid_snapshot_compression'),
  )
  await assert.rejects(instances.standby(id, { compression: zstd, compression_delay: 'soon' }), refused('invalid_compression_delay'))
  for (const policy of [{ compression: { enabled: true, level: 20 } }, { standby_compression_delay: '-1s' }] as const)
    await assert.rejects(instances.create({ ...standIn, name: 'none', snapshot_policy: policy }), refused('invalid_snapshot_policy'))
  assert.equal((await inspect(id)).state, 'Running')
  await instances.delete(id)
})

test('a snapshot and a fork of an instance whose memory is compressed have all of it', async () => {
  const id = await asleep('shared')
  const snapshot = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
  assert.equal(memoryFiles(id).length, 1)
  const fork = await server.client.instances.fork(id, { name: 'shared-fork', target_state: 'Running' })
  const fromSnapshot = await server.client.snapshots.fork(snapshot.id, { name: 'shared-other' })
  for (const one of [fork.id, fromSnapshot.id]) {
    assert.equal(await memoryOf(one), 'memory of shared')
    await server.client.instances.delete(one)
  }
  await server.client.instances.restore(id)
  assert.equal(await memoryOf(id), 'memory of shared')
  await server.client.snapshots.delete(snapshot.id)
  await server.client.instances.delete(id)
})

test('memory that a snapshot names as well is left as it is and says so, and is compressed when the snapshot is gone', async () => {
  const id = await running('named')
  await server.client.instances.standby(id, { compression: zstd, compression_delay: '1s' })
  const snapshot = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
  await until('it says why', async () => (await inspect(id)).standby_compression?.state === 'none')
  assert.match((await inspect(id)).standby_compression?.note ?? '', /shared with 1 other place/)
  await server.client.snapshots.delete(snapshot.id)
  await untilCompressed('named')
  await server.client.instances.delete(id)
})

test('a stop gives compressed memory up, and the disk is there; a delete leaves nothing', async () => {
  const id = await asleep('stopped')
  const stopped: Seen = await server.client.instances.stop(id)
  assert.deepEqual([stopped.state, stopped.standby_compression, memoryFiles(id)], ['Stopped', undefined, []])
  assert.ok(!readdirSync(directoryOf(id)).includes('compressed'))
  await server.client.instances.start(id, {})
  await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })
  assert.equal(await memoryOf(id), '')
  await server.client.instances.standby(id, { compression: zstd })
  await untilCompressed('stopped')
  await server.client.instances.delete(id)
  assert.ok(!readdirSync(path.join(server.dataDirectory, 'instances')).includes(id))
})

test('a restore in place goes back to a snapshot from compressed standby', async () => {
  const id = await running('placed')
  const snapshot = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
  await ask(server, id, ['memory', 'later'])
  await server.client.instances.standby(id, { compression: zstd })
  await untilCompressed('placed')
  const back = await server.client.instances.snapshots.restore(snapshot.id, { id })
  assert.equal(back.state, 'Running')
  assert.equal(await memoryOf(id), 'memory of placed')
  await server.client.snapshots.delete(snapshot.id)
  await server.client.instances.delete(id)
})

test('compressed memory that was damaged is refused before anything starts, and a stop gives it up', async () => {
  const id = await asleep('damaged')
  const [name = ''] = memoryFiles(id)
  const bytes = readFileSync(path.join(directoryOf(id), name))
  bytes[20] = (bytes[20] ?? 0) ^ 1
  writeFileSync(path.join(directoryOf(id), name), bytes)
  const refused = (error: unknown): boolean =>
    error instanceof APIError && error.status === 409 && /saved for its standby is damaged.*hypeman stop/.test(error.message)
  await assert.rejects(server.client.instances.restore(id), refused)
  await assert.rejects(server.client.instances.fork(id, { name: 'never' }), refused)
  assert.deepEqual([(await inspect(id)).state, memoryFiles(id)], ['Standby', [name]])
  await server.client.instances.stop(id)
  await server.client.instances.delete(id)
})

test('a server that was killed finds it compressed, or goes on to compress it', async () => {
  const [id, waiting] = [await asleep('kept'), await running('waiting')]
  await server.client.instances.standby(waiting, { compression: zstd, compression_delay: '2s' })
  await server.crash()
  await server.restart()
  assert.equal((await inspect(id)).standby_compression?.state, 'compressed')
  await untilCompressed('waiting')
  for (const one of [id, waiting]) {
    await server.client.instances.restore(one)
    assert.match(await memoryOf(one), /^memory of (kept|waiting)$/)
    await server.client.instances.delete(one)
  }
})
