// Images from real registries and archives, and the disks that are made of them. Boots nothing: what a guest would see is mounted here.

import assert from 'node:assert/strict'
import { lstat, readdir, readFile, readlink } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { isHypemanError, type ErrorCode } from '../../src/api/errors.ts'
import { run } from '../support/command.ts'
import { assertOnDisk, mountErofs, startImages } from '../support/images.ts'
import { buildIndex, type TestImage } from '../support/oci.ts'
import { account, startRegistry } from '../support/registry.ts'

const needsRoot = { skip: process.geteuid?.() === 0 ? false : 'mounting a root file system needs root' }
const limit = (): AbortSignal => AbortSignal.timeout(60_000)
const refusedWith =
  (code: ErrorCode, words = /./) =>
  (error: unknown): boolean =>
    isHypemanError(error, code) && words.test(error.message)

const small = (word: string): TestImage => ({ layers: [[{ path: 'word', content: word }]], config: { Cmd: ['/bin/cat', '/word'] } })

/** cap_net_raw, permitted and effective; revision 2 (capabilities(7)). */
const capability = '\u0001\0\0\u0002\0 \0\0\0\0\0\0\0\0\0\0\0\0\0\0'

const layered: TestImage = {
  config: {
    Entrypoint: ['/entry'],
    Cmd: ['serve'],
    Env: ['PATH=/bin', 'EMPTY=', 'PATH=/usr/bin'],
    WorkingDir: '/srv',
    User: 'app:web',
    StopSignal: 'SIGINT',
    Labels: { team: 'one' },
    ExposedPorts: { '80/tcp': {} },
  },
  layers: [
    [
      { path: './', type: 'directory', mode: 0o755 },
      { path: 'etc/', type: 'directory' },
      { path: 'etc/removed', content: 'x' },
      { path: 'etc/kept', content: 'kept', uid: 1000, gid: 2000, mode: 0o640, mtime: 1_600_000_000 },
      { path: 'etc/replaced', content: 'old' },
      { path: 'opaque/', type: 'directory' },
      { path: 'opaque/hidden', content: 'x' },
      { path: 'gone/', type: 'directory' },
      { path: 'gone/deep', content: 'x' },
      { path: 'bin/', type: 'directory' },
      { path: 'bin/su', content: 'suid', mode: 0o4755 },
      { path: 'bin/su-link', type: 'hardlink', linkTo: 'bin/su' },
      { path: 'bin/sh', type: 'symlink', linkTo: '/usr/bin/no-such-shell' },
      { path: 'dev/', type: 'directory' },
      { path: 'dev/null', type: 'character', device: [1, 3], mode: 0o666 },
      { path: 'dev/disk', type: 'block', device: [8, 1], mode: 0o660, gid: 6 },
      { path: 'run.fifo', type: 'fifo' },
      { path: 'noted', content: 'a', attributes: { 'user.note': 'from the layer' } },
      { path: 'capable', content: 'b', attributes: { 'security.capability': capability } },
      { path: 'becomes-directory', content: 'file' },
    ],
    [
      { path: 'etc/.wh.removed' },
      { path: 'etc/replaced', content: 'new' },
      { path: 'opaque/', type: 'directory', mode: 0o700 },
      { path: 'opaque/.wh..wh..opq' },
      { path: 'opaque/shown', content: 'y' },
      { path: '.wh.gone' },
      { path: 'becomes-directory/', type: 'directory' },
      { path: 'becomes-directory/file', content: 'z' },
    ],
  ],
}

for (const compression of ['gzip', 'zstd'] as const)
  test(`an image of ${compression} layers is pulled, and its disk holds exactly what the layers say`, needsRoot, async () => {
    await using registry = await startRegistry()
    await using service = await startImages()
    const { images, layout } = service
    const built = await service.build({ ...layered, compression })
    await registry.push(built.layout, 'team/app:1')

    const pulled = await images.pull({ name: `${registry.host}/team/app:1`, tags: { team: 'one' } })
    assert.equal(pulled.name, `${registry.host}/team/app:1`)
    assert.equal(pulled.digest, built.digest)
    const ready = await images.waitReady(pulled.name, limit())
    assert.deepEqual(ready.config, {
      entrypoint: ['/entry'],
      cmd: ['serve'],
      env: { PATH: '/usr/bin', EMPTY: '' },
      workingDir: '/srv',
      user: 'app:web',
      stopSignal: 'SIGINT',
      labels: { team: 'one' },
      exposedPorts: ['80/tcp'],
    })

    await using root = await mountErofs(ready.rootfsPath)
    const at = (name: string): string => path.join(root.path, name)
    assert.deepEqual((await readdir(at('etc'))).toSorted(), ['kept', 'replaced'])
    assert.equal(await readFile(at('etc/replaced'), 'utf8'), 'new')
    assert.deepEqual(await readdir(at('opaque')), ['shown'])
    assert.deepEqual(
      (await readdir(root.path)).filter((name) => name === 'gone' || name.startsWith('.wh')),
      [],
    )
    assert.equal(await readFile(at('becomes-directory/file'), 'utf8'), 'z')
    const kept = await lstat(at('etc/kept'))
    assert.deepEqual([kept.uid, kept.gid, kept.mode & 0o7777, kept.mtimeMs / 1000], [1000, 2000, 0o640, 1_600_000_000])
    assert.equal((await lstat(at('opaque'))).mode & 0o7777, 0o700)
    const [su, link] = [await lstat(at('bin/su')), await lstat(at('bin/su-link'))]
    assert.deepEqual([su.mode & 0o7777, su.nlink, su.ino], [0o4755, 2, link.ino])
    assert.equal(await readlink(at('bin/sh')), '/usr/bin/no-such-shell')
    const [character, block] = [await lstat(at('dev/null')), await lstat(at('dev/disk'))]
    assert.ok(character.isCharacterDevice() && block.isBlockDevice() && (await lstat(at('run.fifo'))).isFIFO())
    assert.deepEqual([character.rdev, block.rdev, block.gid], [0x103, 0x801, 6])
    const attributes = await run('perl', ['-e', attributeReader, at('noted'), 'user.note', at('capable'), 'security.capability'])
    assert.equal(attributes.stdout, `from the layer,${capability},`)
    await assertOnDisk(layout, [built.digest])
  })

// getfattr is no part of a plain system: system call 191 of x86-64 is getxattr(2).
const attributeReader = `
  while (my ($file, $name) = splice(@ARGV, 0, 2)) {
    my $buffer = "x" x 256;
    my $length = syscall(191, $file, $name, $buffer, 256);
    print(($length < 0 ? $! : substr($buffer, 0, $length)) . ',');
  }`

test('the same image gives the same bytes', async () => {
  await using registry = await startRegistry()
  await using service = await startImages()
  const { layout } = await service.build(layered)
  await registry.push(layout, 'app:1')
  const name = `${registry.host}/app:1`
  const bytes: Buffer[] = []
  for (let round = 0; round < 2; round += 1) {
    await service.images.pull({ name })
    bytes.push(await readFile((await service.images.waitReady(name, limit())).rootfsPath))
    await service.images.remove(name)
  }
  assert.ok(bytes[0]?.equals(bytes[1] ?? Buffer.alloc(0)))
  await assertOnDisk(service.layout, [])
})

test('names, tags, digests: found in any spelling, moved by a pull, kept over a restart, removed with the last name', async () => {
  const used = new Set<string>()
  await using registry = await startRegistry()
  await using service = await startImages({ inUse: (digest) => used.has(digest) })
  const name = `${registry.host}/app:latest`
  const [one, two] = [await service.build(small('one')), await service.build(small('two'))]
  await registry.push(one.layout, 'app:latest')
  await service.images.pull({ name: `${registry.host}/app` })
  await service.images.waitReady(name, limit())

  const again = await service.images.pull({ name, tags: { env: 'dev' } })
  assert.equal(again.status, 'ready', 'a second pull of the same digest has nothing to do')
  assert.deepEqual(
    service.images.list({ tags: { env: 'dev' } }).map((image) => image.name),
    [name],
  )
  assert.equal(service.images.get(one.digest).name, name)
  assert.equal(service.images.get(`${registry.host}/app@${one.digest}`).name, name)
  assert.throws(() => service.images.get(`${registry.host}/other@${one.digest}`), refusedWith('not_found'))

  const pinned = await service.images.pull({ name: `${registry.host}/app:latest@${one.digest}` })
  assert.deepEqual([pinned.name, pinned.status], [`${registry.host}/app@${one.digest}`, 'ready'])
  assert.equal((await service.images.tag(name, 'mine:1')).name, 'docker.io/library/mine:1')

  await registry.push(two.layout, 'app:latest')
  await service.images.pull({ name })
  assert.equal((await service.images.waitReady(name, limit())).digest, two.digest)
  assert.deepEqual(service.images.get(name).tags, { env: 'dev' }, 'tags stay')
  await assertOnDisk(service.layout, [one.digest, two.digest])

  await service.restart()
  const kept = new Map(service.images.list().map((image) => [image.name, `${image.digest} ${image.status}`]))
  assert.deepEqual(
    kept,
    new Map([
      [name, `${two.digest} ready`],
      [`${registry.host}/app@${one.digest}`, `${one.digest} ready`],
      ['docker.io/library/mine:1', `${one.digest} ready`],
    ]),
  )
  used.add(two.digest)
  await service.images.remove(name)
  assert.throws(() => service.images.get(name), refusedWith('not_found'))
  assert.equal(service.images.byDigest(two.digest)?.status, 'ready', 'an instance still needs it')
  await service.images.remove(one.digest)
  await assertOnDisk(service.layout, [two.digest])
  used.clear()
  {
    using _held = service.images.hold(two.digest)
    await service.images.collectUnused()
    await assertOnDisk(service.layout, [two.digest])
  }
  await service.images.collectUnused()
  await assertOnDisk(service.layout, [])
})

test('an index gives the image of this platform, and an image for another one is refused', async () => {
  await using registry = await startRegistry()
  await using service = await startImages()
  const both = path.join(await service.directory(), 'oci')
  const [arm, amd] = await buildIndex(both, [{ ...small('arm'), architecture: 'arm64' }, small('amd')])
  await registry.push(both, 'both:1', { all: true })
  const pulled = await service.images.pull({ name: `${registry.host}/both:1` })
  assert.equal(pulled.digest, amd?.digest)
  await service.images.waitReady(pulled.name, limit())

  const onlyArm = path.join(await service.directory(), 'oci')
  await buildIndex(onlyArm, [{ ...small('arm'), architecture: 'arm64' }])
  await registry.push(onlyArm, 'arm:index', { all: true })
  await assert.rejects(service.images.pull({ name: `${registry.host}/arm:index` }), refusedWith('platform_not_available', /arm64/))
  await assert.rejects(
    service.images.pull({ name: `${registry.host}/both@${arm?.digest}` }),
    refusedWith('platform_not_available', /arm64/),
  )
  await assert.rejects(service.images.pull({ name: `${registry.host}/both:1`, platform: 'linux/arm64' }), refusedWith('invalid_platform'))
  await assertOnDisk(service.layout, [amd?.digest ?? ''])
})

test('credentials open a registry, are refused when wrong, and are nowhere afterwards', async () => {
  await using registry = await startRegistry({ withPassword: true })
  await using service = await startImages()
  const { layout } = await service.build(small('private'))
  await registry.push(layout, 'private:1')
  const name = `${registry.host}/private:1`
  await assert.rejects(service.images.pull({ name }), refusedWith('not_found', /credentials/))
  await assert.rejects(service.images.pull({ name, credentials: {} }), refusedWith('not_found', /credentials/))
  await assert.rejects(
    service.images.pull({ name, credentials: { ...account, password: 'wrong-word' } }),
    refusedWith('invalid_request', /refuses/),
  )
  await service.images.pull({ name, credentials: account })
  await service.images.waitReady(name, limit())
  await service.images.close()
  const kept = await run('grep', [
    '-rl',
    '-e',
    account.password,
    '-e',
    Buffer.from(`ada:${account.password}`).toString('base64'),
    service.layout.root,
  ])
  assert.equal(kept.stdout, '')
  assert.ok(!service.logged.some((line) => line.includes(account.password) || line.includes('wrong-word')))
})

test('what a registry does not have is not found; one that is away is unavailable, and what is here stays usable', async () => {
  await using service = await startImages()
  let name: string
  {
    await using registry = await startRegistry()
    const { layout } = await service.build(small('here'))
    await registry.push(layout, 'here:1')
    name = `${registry.host}/here:1`
    await assert.rejects(service.images.pull({ name: `${registry.host}/here:2` }), refusedWith('not_found'))
    await assert.rejects(service.images.pull({ name: `${registry.host}/nothing` }), refusedWith('not_found'))
    await assert.rejects(service.images.pull({ name: 'not a reference' }), refusedWith('invalid_name'))
    await service.images.pull({ name })
    await service.images.waitReady(name, limit())
  }
  await assert.rejects(service.images.pull({ name: name.replace('here:1', 'other') }), refusedWith('registry_unavailable', /127\.0\.0\.1/))
  assert.equal((await service.images.pull({ name })).status, 'ready')
  await assertOnDisk(service.layout, [service.images.get(name).digest])
})
