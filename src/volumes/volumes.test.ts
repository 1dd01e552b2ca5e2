import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test, type TestContext } from 'node:test'
import { pino } from 'pino'
import { isHypemanError } from '../api/errors.ts'
import { dataLayout, type DataLayout } from '../files/layout.ts'
import { makeDataDirectories } from '../files/stage.ts'
import { hostOf, roomForAll } from '../../tests/support/capacity.ts'
import { createVolumeService, type VolumeServiceOptions } from './index.ts'
import { GIB } from './record.ts'
import type { VolumeAttachment } from './types.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-volumes-'))
after(() => rm(root, { recursive: true }))

interface World {
  readonly layout: DataLayout
  readonly service: Awaited<ReturnType<typeof createVolumeService>>
  readonly attachments: Map<string, VolumeAttachment[]>
  readonly snapshots: Map<string, string[]>
  readonly logged: string[]
  readonly reopen: () => ReturnType<typeof createVolumeService>
}

async function openWorld(directory?: string, capacity = roomForAll()): Promise<World> {
  const layout = dataLayout(directory ?? (await mkdtemp(path.join(root, 'w-'))))
  await makeDataDirectories(layout)
  const [attachments, snapshots, logged] = [new Map<string, VolumeAttachment[]>(), new Map<string, string[]>(), new Array<string>()]
  const options: VolumeServiceOptions = {
    layout,
    log: pino({}, { write: (line: string) => void logged.push(line) }),
    attachmentsOf: (id) => attachments.get(id) ?? [],
    snapshotsUsing: (id) => snapshots.get(id) ?? [],
    capacity,
  }
  const reopen = (): ReturnType<typeof createVolumeService> => createVolumeService(options)
  return { layout, service: await reopen(), attachments, snapshots, logged, reopen }
}

/** Nothing is staged, half removed or committed but these volumes. */
async function assertOnly(layout: DataLayout, ...ids: string[]): Promise<void> {
  assert.deepEqual(await readdir(layout.staging), [])
  assert.deepEqual(await readdir(layout.trash), [])
  assert.deepEqual((await readdir(layout.volumes)).toSorted(), ids.toSorted())
}

function checkClean(image: string): void {
  execFileSync('e2fsck', ['-fn', image], { stdio: 'pipe' })
}

function debugfs(image: string, command: string): string {
  return execFileSync('debugfs', ['-R', command, image], { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' })
}

test('a new volume is a clean, sparse ext4 of its size, with its record beside it', async () => {
  const { service, layout } = await openWorld()
  const volume = await service.create({ name: 'data', size_gb: 3, tags: { team: 'db' } })
  assert.match(volume.id, /^[a-z][a-z0-9]{23}$/)
  assert.deepEqual(
    { name: volume.name, size_gb: volume.size_gb, tags: volume.tags, attachments: volume.attachments },
    { name: 'data', size_gb: 3, tags: { team: 'db' }, attachments: undefined },
  )
  const image = service.imagePath(volume.id)
  const { size, blocks } = await stat(image)
  assert.equal(size, 3 * GIB)
  assert.ok(blocks * 512 < 200 * 1024 ** 2, `${blocks * 512} bytes are allocated`)
  checkClean(image)
  assert.match(debugfs(image, 'stats'), /Reserved block count:\s+0\n/)
  assert.equal(service.resolve('data'), volume.id)
  await assertOnly(layout, volume.id)
  assert.deepEqual((await readdir(layout.volume(volume.id))).toSorted(), ['disk.raw', 'volume.json'])
})

test('of volumes that are made at once only those are there that the disk has room for, and room comes back with a delete', async () => {
  const capacity = hostOf({ cpu: 0, memory: 0, disk: 5 * GIB })
  const { service, layout } = await openWorld(undefined, capacity)
  capacity.count(() => service.held())
  const results = await Promise.allSettled(['a', 'b', 'c', 'd'].map((name) => service.create({ name, size_gb: 2 })))
  const refused = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []))
  assert.equal(refused.length, 2)
  for (const error of refused) assert.ok(isHypemanError(error, 'insufficient_resources'), String(error))
  const made = await service.list({})
  await assertOnly(layout, ...made.map(({ id }) => id))
  await service.remove(made[0]?.id ?? '')
  const later = await service.create({ name: 'e', size_gb: 3 })
  await assert.rejects(service.create({ name: 'f', size_gb: 1 }), (error) => isHypemanError(error, 'insufficient_resources'))
  await assertOnly(layout, made[1]?.id ?? '', later.id)
})

test('volumes are found by id or name, listed oldest first, filtered by tags, and are there after a restart', async () => {
  const { service, reopen } = await openWorld()
  const a = await service.create({ name: 'a', size_gb: 1, id: 'my-id', tags: { team: 'x', env: 'dev' } })
  const b = await service.create({ name: 'B.2', size_gb: 1, tags: { team: 'y' } })
  for (const one of [service, await reopen()]) {
    assert.deepEqual(await one.list({}), [a, b])
    assert.deepEqual(await one.list({ tags: { team: 'x', env: 'dev' } }), [a])
    assert.deepEqual(await one.list({ tags: { team: 'x', env: 'prod' } }), [])
    assert.deepEqual(await one.get('my-id'), a)
    assert.deepEqual(await one.get('B.2'), b)
    await assert.rejects(one.get('my'), (error) => isHypemanError(error, 'not_found'))
    assert.throws(
      () => one.resolve('nothing'),
      (error) => isHypemanError(error, 'not_found'),
    )
  }
})

test('ids and names are taken once, also against each other; of two who create one name at once, one wins', async () => {
  const { service, layout } = await openWorld()
  const results = await Promise.allSettled([1, 2, 3].map(() => service.create({ name: 'data', size_gb: 1 })))
  assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1)
  for (const result of results)
    if (result.status === 'rejected') assert.ok(isHypemanError(result.reason, 'already_exists'), String(result.reason))
  const { id } = await service.get('data')
  for (const body of [
    { name: 'data', size_gb: 1 },
    { name: 'other', size_gb: 1, id },
    { name: id, size_gb: 1 },
    { name: 'other', size_gb: 1, id: 'data' },
  ])
    await assert.rejects(service.create(body), (error) => isHypemanError(error, 'already_exists'))
  await assertOnly(layout, id)
  await service.remove('data')
  await service.create({ name: 'data', size_gb: 1, id })
})

test('attachments are shown, and keep a volume from being deleted, as do snapshots and instances in the making', async () => {
  const { service, layout, attachments, snapshots } = await openWorld()
  const { id } = await service.create({ name: 'data', size_gb: 1 })
  attachments.set(id, [{ instanceId: 'i1', mountPath: '/data', readOnly: true }])
  assert.deepEqual((await service.get(id)).attachments, [{ instance_id: 'i1', mount_path: '/data', readonly: true }])
  await assert.rejects(
    service.remove('data'),
    (error) => isHypemanError(error, 'conflict') && /in use by an instance \(i1/.test(error.message),
  )
  attachments.clear()
  snapshots.set(id, ['s1', 's2'])
  await assert.rejects(
    service.remove('data'),
    (error) => isHypemanError(error, 'conflict') && /in use by a snapshot \(s1\)/.test(error.message),
  )
  snapshots.clear()
  {
    using _first = service.hold(id)
    using second = service.hold(id)
    second[Symbol.dispose]()
    second[Symbol.dispose]()
    await assert.rejects(service.remove('data'), (error) => isHypemanError(error, 'conflict') && /being made/.test(error.message))
  }
  const removal = service.remove('data')
  assert.throws(
    () => service.hold(id),
    (error) => isHypemanError(error, 'not_found'),
  )
  await removal
  await assertOnly(layout)
  assert.throws(
    () => service.imagePath(id),
    (error) => isHypemanError(error, 'not_found'),
  )
  await assert.rejects(service.remove('data'), (error) => isHypemanError(error, 'not_found'))
})

test('a volume that can not be read is reported, hides no other, and its id stays taken', async () => {
  const { service, layout, reopen, logged } = await openWorld()
  const good = await service.create({ name: 'good', size_gb: 1 })
  for (const [id, change] of Object.entries({
    noRecord: async (directory: string) => rm(path.join(directory, 'volume.json')),
    garbage: async (directory: string) => writeFile(path.join(directory, 'volume.json'), '{"version":1'),
    future: async (directory: string) => writeFile(path.join(directory, 'volume.json'), '{"version":2}'),
    shortened: async (directory: string) => truncate(path.join(directory, 'disk.raw'), 1000),
    noDisk: async (directory: string) => rm(path.join(directory, 'disk.raw')),
  })) {
    await service.create({ name: id, size_gb: 1, id })
    await change(layout.volume(id))
  }
  await mkdir(layout.volume('empty'))
  logged.length = 0
  const reopened = await reopen()
  assert.deepEqual(await reopened.list({}), [good])
  assert.equal(logged.filter((line) => line.includes("can't be read")).length, 6)
  await assert.rejects(reopened.create({ name: 'x', size_gb: 1, id: 'garbage' }), (error) => isHypemanError(error, 'already_exists'))
})

test('a size that the filesystem of the data directory can not hold is refused and leaves nothing', async () => {
  const { service, layout } = await openWorld()
  // ext4 holds files of at most 16 TiB; other filesystems make it.
  const outcome = await service.create({ name: 'huge', size_gb: 65_536 }).catch((error: unknown) => error)
  if (outcome instanceof Error) {
    assert.ok(isHypemanError(outcome, 'invalid_request'), String(outcome))
    await assertOnly(layout)
  }
})

test(
  'a full disk fails clearly and leaves nothing',
  { skip: process.getuid?.() === 0 ? false : 'only root can mount a small file system' },
  async (t) => {
    const { service, layout } = await openWorld(await smallFilesystem(t, '64m'))
    await assert.rejects(writeFile(path.join(layout.cache, 'filler'), randomBytes(70 * 1024 ** 2)), /ENOSPC/)
    await assert.rejects(service.create({ name: 'data', size_gb: 1 }), (error) => isHypemanError(error, 'storage_full'))
    await assertOnly(layout)
    await rm(path.join(layout.cache, 'filler'))
    await service.create({ name: 'data', size_gb: 1 })
  },
)

async function smallFilesystem(t: TestContext, size: string): Promise<string> {
  const directory = await mkdtemp(path.join(root, 'small-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${size}`, 'tmpfs', directory])
  t.after(() => execFileSync('umount', [directory]))
  return directory
}
