// hypeman cp both ways: where things land, what a guest that means ill can't do, and tar streams.

import assert from 'node:assert/strict'
import { chmod, lstat, mkdir, mkdtemp, readdir, readFile, readlink, realpath, rm, stat, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { unpackTar, packTar } from 'modern-tar'
import { copyOut } from '../../client/copy.ts'
import { addFakeGuest, type FakeEntry, type FakeGuest } from '../../../tests/support/fake-guest.ts'
import { startFakeServer, type FakeServer } from '../../../tests/support/fake-server.ts'
import { hypeman, noParts } from '../../../tests/support/fake-terminal.ts'
import { until } from '../../../tests/support/until.ts'
import { runCommandLine } from '../program.ts'
import { PassThrough } from 'node:stream'

const tree: readonly FakeEntry[] = [
  { path: 'etc', is_dir: true, mode: 0o500 },
  { path: 'etc/hosts', data: Buffer.from('127.0.0.1 localhost\n'), mode: 0o600 },
  { path: 'etc/link', is_symlink: true, link_target: '/outside/of/it' },
  { path: 'etc/sub', is_dir: true, mode: 0o755 },
  { path: 'etc/sub/json', data: Buffer.from('[1]') },
]

test('a directory comes out with modes and times: into a directory that is there, else under the new name', async () => {
  await using world = await createWorld()
  world.guest.holds('/etc', tree)
  await mkdir(world.at('there'))
  assert.equal((await world.run('cp', 'web:/etc', world.at('there'))).code, 0)
  assert.equal((await world.run('cp', 'web:/etc', world.at('new'))).code, 0)
  assert.equal((await world.run('cp', 'web:etc/.', world.at('there'))).code, 0)
  for (const root of [world.at('there/etc'), world.at('new'), world.at('there')]) {
    assert.equal(await readFile(path.join(root, 'hosts'), 'utf8'), '127.0.0.1 localhost\n')
    assert.equal(await readFile(path.join(root, 'sub/json'), 'utf8'), '[1]')
    assert.equal(await readlink(path.join(root, 'link')), '/outside/of/it')
    assert.equal((await stat(path.join(root, 'hosts'))).mode & 0o777, 0o600)
    assert.equal((await stat(root)).mode & 0o777, 0o500)
    assert.equal((await stat(path.join(root, 'hosts'))).mtimeMs, 1_700_000_000_000)
    await chmod(root, 0o700) // or it could not be removed
  }
})

test('a file comes out over a file, into a directory, and under a new name; but not into a directory that is missing', async () => {
  await using world = await createWorld()
  world.guest.holds('/etc/motd', [{ path: 'motd', data: Buffer.from('hello') }])
  await mkdir(world.at('there'))
  await writeFile(world.at('old'), 'before')
  for (const target of ['there', 'old', 'new']) assert.equal((await world.run('cp', 'web:/etc/motd', world.at(target))).code, 0)
  for (const target of ['there/motd', 'old', 'new']) assert.equal(await readFile(world.at(target), 'utf8'), 'hello')
  const { code, stderr } = await world.run('cp', 'web:/etc/motd', `${world.at('missing')}/`)
  assert.equal(code, 1)
  assert.match(stderr, /there is no directory .*missing/)
})

test('a guest that names paths outside of the destination is refused, and nothing is written there', async () => {
  for (const evil of ['etc/../../escaped', '../escaped', '/tmp/escaped', 'etc//../x', 'etc/..']) {
    await using world = await createWorld()
    world.guest.holds('/etc', [
      { path: 'etc', is_dir: true },
      { path: evil, data: Buffer.from('evil') },
    ])
    await mkdir(world.at('inner'))
    const { code, stderr } = await world.run('cp', 'web:/etc', world.at('inner'))
    assert.equal(code, 1, evil)
    assert.match(stderr, /could lie outside of the destination/)
    assert.deepEqual(await readdir(world.at('.')), ['inner'])
  }
})

test('nothing is written through a link, be it of the guest or there before', async () => {
  await using world = await createWorld()
  await mkdir(world.at('outside'))
  await mkdir(world.at('inner'))
  await writeFile(world.at('outside/kept'), 'kept')
  world.guest.holds('/a', [
    { path: 'a', is_dir: true },
    { path: 'a/door', is_symlink: true, link_target: '../../outside' },
    { path: 'a/door/kept', data: Buffer.from('evil') },
  ])
  const through = await world.run('cp', 'web:/a', world.at('inner'))
  assert.equal(through.code, 1)
  assert.match(through.stderr, /door is a symbolic link: nothing is written through it/)
  // A link in the place of a file is replaced, not followed.
  await symlink(world.at('outside/kept'), world.at('inner/link'))
  world.guest.holds('/b', [{ path: 'link', data: Buffer.from('new') }])
  assert.equal((await world.run('cp', 'web:/b', world.at('inner'))).code, 0)
  assert.equal(await readFile(world.at('inner/link'), 'utf8'), 'new')
  assert.ok((await lstat(world.at('inner/link'))).isFile())
  assert.equal(await readFile(world.at('outside/kept'), 'utf8'), 'kept')
})

test('a destination that is a device is left alone', async () => {
  await using world = await createWorld()
  world.guest.holds('/b', [{ path: 'b', data: Buffer.from('new') }])
  const { code, stderr } = await world.run('cp', 'web:/b', '/dev/null')
  assert.equal(code, 1)
  assert.match(stderr, /\/dev\/null is neither a file nor a link/)
})

test('a file that breaks off leaves neither half a file nor a staged one', async () => {
  await using world = await createWorld()
  world.guest.holds('/b', [{ path: 'b', data: Buffer.from('short'), size: 1000 }])
  const { code, stderr } = await world.run('cp', 'web:/b', world.at('b'))
  assert.equal(code, 1)
  assert.match(stderr, /b came with 5 bytes, but 1000 were announced/)
  assert.deepEqual(await readdir(world.at('.')), [])
})

test('what the guest lacks is told in the words of the guest', async () => {
  await using world = await createWorld()
  const { code, stderr } = await world.run('cp', 'web:/nope', world.at('x'))
  assert.deepEqual([code, stderr.split('\n').at(-2)], [1, 'Error: /nope could not be copied: stat: no such file or directory'])
})

test('a directory goes in with what is in it; links to directories and to nothing are left out and told', async () => {
  await using world = await createWorld()
  await mkdir(world.at('site/sub'), { recursive: true, mode: 0o755 })
  await writeFile(world.at('site/index'), 'hello', { mode: 0o640 })
  await symlink('index', world.at('site/same'))
  await symlink('sub', world.at('site/around'))
  await symlink('nowhere', world.at('site/broken'))
  await symlink('..', world.at('site/sub/up'))
  world.guest.knows('/srv', { exists: true, is_dir: true })
  const { code, stderr } = await world.run('cp', world.at('site'), 'web:/srv')
  assert.equal(code, 0)
  assert.deepEqual([...world.guest.written.keys()].sort(), ['/srv/site', '/srv/site/index', '/srv/site/same', '/srv/site/sub'])
  assert.deepEqual(world.guest.written.get('/srv/site/index'), { directory: false, mode: 0o640, data: 'hello' })
  assert.match(stderr, /around is a link to a directory, and is left out/)
  assert.match(stderr, /broken is a link to nothing, and is left out/)
  const followed = await world.run('cp', '-L', `${world.at('site')}/.`, 'web:/new')
  assert.equal(followed.code, 0)
  assert.ok(world.guest.written.has('/new/around') && world.guest.written.has('/new/index'))
  assert.match(followed.stderr, /up leads back to a directory that it is in, and is left out/)
})

test('a file goes in under the name, or into the directory that is there or meant', async () => {
  await using world = await createWorld()
  await writeFile(world.at('app.conf'), 'x')
  world.guest.knows('/etc', { exists: true, is_dir: true })
  for (const target of ['/etc', '/new/', '/etc/other']) assert.equal((await world.run('cp', world.at('app.conf'), `web:${target}`)).code, 0)
  assert.deepEqual([...world.guest.written.keys()], ['/etc/app.conf', '/new/app.conf', '/etc/other'])
  const refused = await world.run('cp', world.at('app.conf'), 'web:/refused')
  assert.equal(refused.code, 1)
  assert.match(refused.stderr, /\/refused could not be written in the guest: read-only file system/)
})

test('- is a tar stream, out and in', async () => {
  await using world = await createWorld()
  world.guest.holds('/etc', tree)
  const stdout = new PassThrough()
  const chunks: Buffer[] = []
  stdout.on('data', (chunk: Buffer) => chunks.push(chunk))
  assert.equal(await runCommandLine(['cp', '-q', 'web:/etc', '-'], { ...world.terminal(), stdout }, noParts), 0)
  const entries = await unpackTar(Buffer.concat(chunks))
  assert.deepEqual(
    entries.map(({ header }) => [header.name, header.type, header.size]),
    [
      ['etc/', 'directory', 0],
      ['etc/hosts', 'file', 20],
      ['etc/link', 'symlink', 0],
      ['etc/sub/', 'directory', 0],
      ['etc/sub/json', 'file', 3],
    ],
  )
  const input = await packTar([
    { header: { name: './', type: 'directory', size: 0 } },
    { header: { name: './a/b', type: 'file', size: 2, mode: 0o600 }, body: 'hi' },
    { header: { name: 'a/l', type: 'symlink', size: 0, linkname: 'b' } },
  ])
  const { code, stderr } = await hypeman(world.server.url, ['cp', '-q', '-', 'web:/in'], { input })
  assert.deepEqual([code, stderr], [0, '1 links and special files were left out: only files and directories can be copied into a guest\n'])
  assert.deepEqual(world.guest.written.get('/in/a/b'), { directory: false, mode: 0o600, data: 'hi' })
  const evil = await packTar([{ header: { name: '../x', type: 'file', size: 1 }, body: 'x' }])
  assert.equal((await hypeman(world.server.url, ['cp', '-q', '-', 'web:/in'], { input: evil })).code, 1)
})

test('a reader that takes its time slows the guest down', async () => {
  await using server = await startFakeServer()
  let sent = 0
  const total = 2_000
  server.onSocket('/instances/web/cp', async (socket) => {
    const piece = Buffer.alloc(32_768)
    socket.send(JSON.stringify({ type: 'header', path: 'big', mode: 0o644, is_dir: false, size: total * piece.length, mtime: 0 }))
    for (; sent < total; sent += 1) await new Promise<void>((resolve) => socket.send(piece, () => resolve()))
    socket.send(JSON.stringify({ type: 'end', final: true }))
  })
  const signal = new AbortController().signal
  for await (const { body } of copyOut({ baseUrl: server.url, token: undefined }, 'web', { path: '/big', followLinks: false }, signal)) {
    let received = 0
    for await (const chunk of body) {
      if (received === 0)
        await until(
          'the server has stopped sending',
          quiet(() => sent),
        )
      if (received === 0) assert.ok(sent < total / 2, `${sent} of ${total} pieces were sent although one was read`)
      received += chunk.length
    }
    assert.equal(received, total * 32_768)
  }
})

/** True once the number has stayed the same over many looks. */
function quiet(number: () => number): () => boolean {
  let [last, looks] = [-1, 0]
  return () => {
    looks = number() === last ? looks + 1 : 0
    last = number()
    return looks > 20
  }
}

test('places are told apart', async () => {
  await using world = await createWorld()
  for (const words of [
    ['a', 'b'],
    ['web:/a', 'db:/b'],
    ['-', 'x'],
    ['web:', 'x'],
    ['-', '-'],
  ]) {
    const { code } = await world.run('cp', ...words)
    assert.equal(code, 2, words.join(' '))
  }
})

interface World extends AsyncDisposable {
  readonly server: FakeServer
  readonly guest: FakeGuest
  at(name: string): string
  run(...words: string[]): ReturnType<typeof hypeman>
  terminal(): Omit<Parameters<typeof runCommandLine>[1], 'stdout'>
}

async function createWorld(): Promise<World> {
  const server = await startFakeServer()
  const directory = await realpath(await mkdtemp(path.join(os.tmpdir(), 'cli-cp-')))
  return {
    server,
    guest: addFakeGuest(server, 'web'),
    at: (name) => path.join(directory, name),
    run: (...words) => hypeman(server.url, words),
    terminal: () => ({
      stdin: new PassThrough(),
      stderr: new PassThrough().resume(),
      env: { HYPEMAN_BASE_URL: server.url, HYPEMAN_API_KEY: 'token' },
      home: '/nonexistent',
      signal: new AbortController().signal,
    }),
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]()
      await rm(directory, { recursive: true })
    },
  }
}
