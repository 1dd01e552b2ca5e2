import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, open, readdir, rm, stat, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { after, test } from 'node:test'
import { createGzip, gzipSync } from 'node:zlib'
import { pino } from 'pino'
import { packTar, type TarEntry } from 'modern-tar'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import { dataLayout, type DataLayout } from '../files/layout.ts'
import { makeDataDirectories } from '../files/stage.ts'
import { roomForAll } from '../../tests/support/capacity.ts'
import { unpackArchive } from './archive.ts'
import { failureOf, makeFilesystem } from './filesystem.ts'
import { createVolumeService } from './index.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-archive-'))
after(() => rm(root, { recursive: true }))
const isRoot = process.getuid?.() === 0
const asRoot = { skip: isRoot ? false : 'only root can do this' } as const

async function openWorld(directory?: string): Promise<{ layout: DataLayout; service: Awaited<ReturnType<typeof createVolumeService>> }> {
  const layout = dataLayout(directory ?? (await mkdtemp(path.join(root, 'w-'))))
  await makeDataDirectories(layout)
  const service = await createVolumeService({
    layout,
    log: pino({ enabled: false }),
    attachmentsOf: () => [],
    snapshotsUsing: () => [],
    capacity: roomForAll(),
  })
  return { layout, service }
}

async function assertNothing(layout: DataLayout): Promise<void> {
  assert.deepEqual([...(await readdir(layout.staging)), ...(await readdir(layout.trash)), ...(await readdir(layout.volumes))], [])
}

function checkClean(image: string): void {
  execFileSync('e2fsck', ['-fn', image], { stdio: 'pipe' })
}

function debugfs(image: string, command: string): string {
  return execFileSync('debugfs', ['-R', command, image], { stdio: ['ignore', 'pipe', 'ignore'], encoding: 'utf8' })
}

async function tarOf(...entries: TarEntry[]): Promise<Buffer> {
  return Buffer.from(await packTar(entries))
}

function file(name: string, body: string | Uint8Array = 'x', more: object = {}): TarEntry {
  return { header: { name, size: Buffer.byteLength(body), type: 'file', ...more }, body }
}

function link(name: string, linkname: string, type: 'symlink' | 'link' = 'symlink'): TarEntry {
  return { header: { name, size: 0, type, linkname } }
}

test('a tar of a tree becomes a clean volume with contents, modes, links and times', async () => {
  const tree = await mkdtemp(path.join(root, 'tree-'))
  await mkdir(path.join(tree, 'dir/deep'), { recursive: true })
  const content = randomBytes(3_000_000)
  await writeFile(path.join(tree, 'dir/deep/random'), content)
  await writeFile(path.join(tree, 'tool'), '#!/bin/sh\n', { mode: 0o700 })
  execFileSync(
    'sh',
    ['-c', 'chmod 4755 tool; chmod 1777 dir; ln -s /srv/elsewhere link; ln dir/deep/random hard; touch -d @1000000000 tool; mkdir empty'],
    { cwd: tree },
  )
  for (const options of ['-cf', '-czf', '--format=pax -cf', '--format=gnu -czf']) {
    const { service } = await openWorld()
    const archive = execFileSync('tar', [...options.split(' '), '-', '-C', tree, '.'], { maxBuffer: 1e8 })
    const volume = await service.createFromArchive({ name: 'data', size_gb: 1 }, Readable.from(chunksOf(archive, 50_000)))
    const image = service.imagePath(volume.id)
    assert.equal((await stat(image)).size, 1024 ** 3)
    checkClean(image)
    const copy = path.join(await mkdtemp(path.join(root, 'copy-')), 'random')
    debugfs(image, `dump /dir/deep/random ${copy}`)
    execFileSync('cmp', [copy, path.join(tree, 'dir/deep/random')])
    assert.match(debugfs(image, 'stat /tool'), isRoot ? /Mode:\s+04755/ : /Mode:\s+0[47]755/)
    assert.match(debugfs(image, 'stat /tool'), /mtime: .*Sep\s+9 .*2001/)
    assert.match(debugfs(image, 'stat /dir'), /Mode:\s+01777/)
    assert.match(debugfs(image, 'stat /link'), /Type: symlink[^]*Fast link dest: "\/srv\/elsewhere"/)
    assert.match(debugfs(image, 'stat /hard'), /Links: 2/)
    assert.match(debugfs(image, 'stat /empty'), /Type: directory/)
    await service.remove('data')
  }
})

test('owners and the mode of the top are those of the archive', asRoot, async () => {
  const { service } = await openWorld()
  const archive = await tarOf(
    { header: { name: './', size: 0, type: 'directory', mode: 0o750, uid: 70, gid: 71 } },
    file('owned', 'x', { uid: 1234, gid: 5678, mode: 0o640 }),
  )
  const { id } = await service.createFromArchive({ name: 'data', size_gb: 1 }, Readable.from([archive]))
  assert.match(debugfs(service.imagePath(id), 'stat /owned'), /Mode:\s+0640[^]*User:\s+1234\s+Group:\s+5678/)
  assert.match(debugfs(service.imagePath(id), 'stat /'), /Mode:\s+0750[^]*User:\s+70\s+Group:\s+71/)
})

test('sparse files stay sparse', async () => {
  const tree = await mkdtemp(path.join(root, 'sparse-'))
  await using handle = await open(path.join(tree, 'sparse'), 'w')
  await handle.truncate(300 * 1024 ** 2)
  await handle.write('end', 200 * 1024 ** 2)
  const archive = execFileSync('tar', ['-cSf', '-', '-C', tree, '.'], { maxBuffer: 1e8 })
  const { service } = await openWorld()
  const { id } = await service.createFromArchive({ name: 'data', size_gb: 1 }, Readable.from([archive]))
  const { blocks } = await stat(service.imagePath(id))
  assert.ok(blocks * 512 < 100 * 1024 ** 2, `${blocks * 512} bytes are allocated`)
  assert.match(debugfs(service.imagePath(id), 'stat /sparse'), /Size: 314572800/)
})

test('a volume has inodes for all files of its archive, and as many again', async () => {
  const directory = await mkdtemp(path.join(root, 'inodes-'))
  const image = path.join(directory, 'disk.raw')
  await makeFilesystem(image, 1, { directory: await mkdtemp(path.join(root, 'content-')), entries: 100_000 })
  checkClean(image)
  assert.ok(Number(/Inode count:\s+(\d+)/.exec(debugfs(image, 'stats'))?.[1]) >= 200_000)
})

test('what mke2fs says becomes an error that tells what to do', () => {
  const said = (stderr: string, code?: string): unknown => failureOf({ stderr, code }, '/v/disk.raw', 1)
  for (const [stderr, code] of [
    ['mke2fs: Could not allocate block in ext2 filesystem while writing file "big"', 'archive_too_large'],
    ['mke2fs: Could not allocate inode in ext2 filesystem while allocating inode "x"', 'archive_too_large'],
    ['mke2fs: No space left on device while writing superblock', 'storage_full'],
  ] as const)
    assert.ok(isHypemanError(said(stderr), code), stderr)
  assert.ok(isHypemanError(said('', 'ENOENT'), 'host_unavailable'))
  assert.match(String(said('mke2fs: something else')), /something else/)
})

const zeros = Buffer.alloc(1024 ** 2)

function rawHeader(name: string, size: number, empty: Buffer): Buffer {
  const header = Buffer.from(empty.subarray(0, 512))
  header.write(`${name}\0`, 0, 'latin1')
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1')
  header.fill(' ', 148, 156)
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
    'latin1',
  )
  return header
}

/** Many gigabytes of zeros in an archive of a few megabytes. */
function bomb(): Readable {
  async function* bytes(): AsyncGenerator<Buffer> {
    yield rawHeader('zeros', 8 * 1024 ** 3 - 1, await tarOf(file('placeholder', '')))
    for (;;) yield zeros
  }
  return Readable.from(bytes()).pipe(createGzip({ level: 1 }))
}

test('an archive that ends, and is followed by zeros without end, is too large', async () => {
  async function* bytes(): AsyncGenerator<Buffer> {
    yield await tarOf(file('a'))
    for (;;) yield zeros
  }
  const archive = Readable.from(bytes()).pipe(createGzip({ level: 1 }))
  const directory = await mkdtemp(path.join(root, 'endless-'))
  await assert.rejects(unpackArchive(archive, directory, 1024 ** 2), (error) => isHypemanError(error, 'archive_too_large'))
})

const whole = await tarOf(file('dir/file', randomBytes(100_000)))
const refused: Readonly<Record<string, { archive: () => Readable | Promise<Readable>; code: ErrorCode; says: RegExp }>> = {
  'an absolute name': {
    archive: async () => Readable.from([await tarOf(file('/etc/passwd'))]),
    code: 'invalid_archive',
    says: /"\/etc\/passwd"/,
  },
  'a name that climbs out': {
    archive: async () => Readable.from([await tarOf(file('a/../../x'))]),
    code: 'invalid_archive',
    says: /leads out/,
  },
  'a hard link out': {
    archive: async () => Readable.from([await tarOf(link('x', '../../../etc/passwd', 'link'))]),
    code: 'invalid_archive',
    says: /leads out/,
  },
  'a way through a link': {
    archive: async () => Readable.from([await tarOf(link('way', root), file('way/evil'))]),
    code: 'invalid_archive',
    says: /can't be unpacked/,
  },
  'a way through a link that climbs': {
    archive: async () => Readable.from([await tarOf(link('way', '../../..'), file('way/evil'))]),
    code: 'invalid_archive',
    says: /can't be unpacked/,
  },
  'a device': {
    archive: async () => Readable.from([await tarOf({ header: { name: 'null', size: 0, type: 'character-device' } })]),
    code: 'invalid_archive',
    says: /null is a device/,
  },
  'a pipe': {
    archive: async () => Readable.from([await tarOf({ header: { name: 'p', size: 0, type: 'fifo' } })]),
    code: 'invalid_archive',
    says: /p is a device, a pipe/,
  },
  'no tar at all': { archive: () => Readable.from([randomBytes(5_000)]), code: 'invalid_archive', says: /header/ },
  nothing: { archive: () => Readable.from([]), code: 'invalid_archive', says: /empty/ },
  'a tar of nothing': { archive: () => Readable.from([Buffer.alloc(10_240)]), code: 'invalid_archive', says: /empty/ },
  'a tar that breaks off in a file': {
    archive: () => Readable.from([whole.subarray(0, 50_000)]),
    code: 'invalid_archive',
    says: /middle of an entry/,
  },
  'a gzip that breaks off': {
    archive: () => Readable.from([gzipSync(whole).subarray(0, 50_000)]),
    code: 'invalid_archive',
    says: /unexpected end/,
  },
  'a gzip of garbage': { archive: () => Readable.from([gzipSync(randomBytes(5_000))]), code: 'invalid_archive', says: /header/ },
  'a gzip with a wrong checksum': {
    archive: () => {
      const bytes = gzipSync(whole)
      bytes.writeUInt32LE(0, bytes.length - 8)
      return Readable.from([bytes])
    },
    code: 'invalid_archive',
    says: /incorrect data check/,
  },
  'an upload that fails': {
    archive: () =>
      Readable.from(
        (async function* () {
          yield whole.subarray(0, 20_000)
          throw new Error('the client has gone')
        })(),
      ),
    code: 'invalid_archive',
    says: /the client has gone/,
  },
  'more than fits, told by its header': { archive: bomb, code: 'archive_too_large', says: /1\.0 GB/ },
}

for (const [what, { archive, code, says }] of Object.entries(refused))
  test(`${what} is refused, and nothing is left`, async () => {
    const { service, layout } = await openWorld()
    const outside = (await readdir(root)).toSorted()
    const stream = await archive()
    await assert.rejects(service.createFromArchive({ name: 'data', size_gb: 1 }, stream), (error) => {
      assert.ok(isHypemanError(error, code) && says.test(error.message), String(error))
      return true
    })
    assert.ok(stream.destroyed)
    await assertNothing(layout)
    assert.deepEqual((await readdir(root)).toSorted(), outside)
    assert.deepEqual(await service.list({}), [])
  })

test('a name that is taken is refused before the archive is read', async () => {
  const { service } = await openWorld()
  await service.create({ name: 'data', size_gb: 1 })
  let read = false
  const archive = new Readable({
    read() {
      read = true
      this.push(null)
    },
  })
  await assert.rejects(service.createFromArchive({ name: 'data', size_gb: 1 }, archive), (error) => isHypemanError(error, 'already_exists'))
  assert.ok(!read && archive.destroyed)
})

test('what fills the disk of the data directory fails clearly and leaves nothing', asRoot, async (t) => {
  const directory = await mkdtemp(path.join(root, 'small-'))
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', directory])
  t.after(() => execFileSync('umount', [directory]))
  const { service, layout } = await openWorld(directory)
  const archive = await tarOf(file('big', randomBytes(20 * 1024 ** 2)))
  await assert.rejects(service.createFromArchive({ name: 'data', size_gb: 1 }, Readable.from(chunksOf(archive, 65_536))), (error) =>
    isHypemanError(error, 'storage_full'),
  )
  await assertNothing(layout)
})

test('a slow upload is not read ahead of what tar takes', async () => {
  const { service } = await openWorld()
  const archive = await tarOf(file('big', randomBytes(5_000_000)))
  const { id } = await service.createFromArchive({ name: 'data', size_gb: 1 }, Readable.from(chunksOf(archive, 999), { highWaterMark: 1 }))
  checkClean(service.imagePath(id))
})

function* chunksOf(bytes: Buffer, size: number): Generator<Buffer> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size)
}
