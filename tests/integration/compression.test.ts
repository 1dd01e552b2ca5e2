// Compressed snapshots of a real machine, by the official client: they take less, and their forks have what was in memory, also when many ask at once, while they
// are compressed, and after the server was killed.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type { Snapshot } from '@onkernel/hypeman/resources/snapshots.js'
import { APIError } from '@onkernel/hypeman'
import { eventsOf } from '../support/instance-events.ts'
import { runMachine, shell } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { snapshotFileNames } from '../support/snapshot-files.ts'
import { promptOf } from '../support/typed.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

// A machine that boots by itself has its memory for itself; a fork of a template shares it.
const settings = { TEMPLATES: 'false', SNAPSHOTS__KEEP_DECOMPRESSED: '1s' }
const server = await startServer(settings)
after(() => server[Symbol.asyncDispose]())
const { done, refused } = promptOf(server)
const { instances, snapshots } = server.client

let origin = ''
before(async () => {
  origin = await runMachine(server, { name: 'origin' })
  await shell(server, origin, 'head -c 8000000 /dev/zero | tr "\\0" x > /run/memory; echo kept > /root/disk; sync')
})

/** What the official client's types do not have, the answers do. */
type Seen = Snapshot & { readonly allocated_bytes?: number; readonly compression_note?: string }

const inspect = async (id: string): Promise<Seen> => await snapshots.get(id)

/** Waits until the memory of a snapshot is compressed and lies there in no other form. */
async function untilCompressed(id: string): Promise<Seen> {
  await until(
    'the snapshot is compressed',
    async () => {
      const { compression_state: state, compression_error: error, compression_note: note } = await inspect(id)
      assert.notEqual(state, 'error', String(error))
      return state === 'compressed' && note === undefined
    },
    120_000,
  )
  const names = await snapshotFileNames(server, id)
  assert.ok(names.some((name) => name.startsWith('compressed/memory-')))
  assert.deepEqual(
    names.filter((name) => /^guest\/memory-.*\.(?:base|diff)$/.test(name)),
    [],
  )
  return await inspect(id)
}

async function assertFork(id: string, name: string): Promise<void> {
  const fork = await snapshots.fork(id, { name })
  countVm(`fork ${name}`)
  try {
    assert.equal(await shell(server, fork.id, 'tr -d x < /run/memory | wc -c; wc -c < /run/memory; cat /root/disk'), '0\n8000000\nkept')
    const [cost] = (await eventsOf(server, fork.id)).filter(({ step }) => step === 'memory-decompressed')
    assert.match(cost?.note ?? '', /MiB of memory lay there compressed/)
  } finally {
    await instances.delete(fork.id)
  }
}

for (const [algorithm, level, suffix] of [
  ['zstd', 3, 'zst'],
  ['lz4', undefined, 'lz4'],
] as const)
  test(`a snapshot that ${algorithm} compresses takes less, and two forks at once have all that was in memory`, async () => {
    const compression = { enabled: true, algorithm, ...(level === undefined ? {} : { level }) }
    const taken: Seen = await instances.snapshots.create(origin, { kind: 'Standby', name: algorithm, compression })
    assert.equal(taken.compression_state, 'compressing')
    assert.deepEqual(taken.compression, { ...compression, level: level ?? 0 })
    const compressed = await untilCompressed(taken.id)
    const [small, large] = [compressed.compressed_size_bytes ?? 0, compressed.uncompressed_size_bytes ?? 0]
    assert.ok(small > 0 && small < large / 2, `${small} of ${large} bytes`)
    assert.equal(compressed.size_bytes, taken.size_bytes - large + small)
    assert.ok((compressed.allocated_bytes ?? 0) < (taken.allocated_bytes ?? 0) / 1.5)
    assert.ok((await snapshotFileNames(server, taken.id)).includes(`compressed/memory-1.base.${suffix}`))

    await Promise.all([assertFork(taken.id, 'one'), assertFork(taken.id, 'two')])
    assert.match(await done(`hypeman snapshot verify ${algorithm}`), /compressed\/memory-1\.base/)
    await untilCompressed(taken.id)
    await snapshots.delete(taken.id)
  })

test('the command line asks for it, shows it, and says what can not be', async () => {
  const id = await done('hypeman snapshot create origin --name small --compress lz4:1')
  await until('the snapshot is compressed', async () => (await server.client.snapshots.get(id)).compression_state === 'compressed', 120_000)
  assert.match(await done('hypeman snapshot ls'), /COMPRESSED[\s\S]*small.*lz4/)
  assert.match(await done('hypeman snapshot inspect small'), /"compression_state": "compressed"/)
  assert.match(await refused(2, 'hypeman snapshot create origin --compress gzip'), /zstd or lz4/)
  assert.match(await refused(1, 'hypeman snapshot create origin --compress zstd:20'), /zstd has levels from 1 to 19/)
})

test('what can not be compressed is refused before anything happens', async () => {
  const body = { kind: 'Standby', compression: { enabled: true, algorithm: 'lz4', level: 10 } } as const
  await assert.rejects(server.client.instances.snapshots.create(origin, body), (error) => error instanceof APIError && error.status === 400)
  const withoutMemory = { kind: 'Stopped', compression: { enabled: true } } as const
  await assert.rejects(
    server.client.instances.snapshots.create(origin, withoutMemory),
    (error) => error instanceof APIError && error.status === 400 && /no memory/.test(error.message),
  )
})

test('a snapshot can be forked at once while it is compressed; the server may be killed meanwhile, and the next one ends what it began', async () => {
  const { id } = await instances.snapshots.create(origin, { kind: 'Standby', name: 'busy', compression: { enabled: true, level: 9 } })
  const fork = await snapshots.fork(id, { name: 'early' })
  countVm('fork early')
  await server.restart()
  await server.client.instances.delete(fork.id)
  await until('the snapshot is compressed', async () => (await server.client.snapshots.get(id)).compression_state === 'compressed', 240_000)
  await server.client.snapshots.delete(id)
})

// The last one: a machine that was restored shares its memory with its later snapshots, which are not compressed as long as it has it.
test('an instance whose memory is compressed in standby, as the server usually does it, goes on where it was', async () => {
  await server.restart({ ...settings, SNAPSHOTS__COMPRESSION: 'lz4' })
  await server.client.instances.standby(origin)
  const inspected = async (): Promise<{
    readonly state: string
    readonly compressed_size_bytes?: number
    readonly uncompressed_size_bytes?: number
  }> => JSON.parse(await done(`hypeman inspect ${origin}`)).standby_compression
  await until('its memory is compressed', async () => (await inspected()).state === 'compressed', 240_000)
  const { compressed_size_bytes: small = 0, uncompressed_size_bytes: large = 0 } = await inspected()
  assert.ok(small > 0 && small < large / 2, `${small} of ${large} bytes`)
  await server.client.instances.restore(origin)
  countVm('restore of origin')
  assert.equal(await shell(server, origin, 'tr -d x < /run/memory | wc -c; wc -c < /run/memory; cat /root/disk'), '0\n8000000\nkept')
  const [cost] = (await eventsOf(server, origin)).filter(({ step }) => step === 'memory-decompressed')
  assert.match(cost?.note ?? '', /MiB of memory lay there compressed by lz4/)
})
