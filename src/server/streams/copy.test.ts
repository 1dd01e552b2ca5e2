import assert from 'node:assert/strict'
import { once } from 'node:events'
import { statSync } from 'node:fs'
import { lstat, mkdir, mkdtemp, readFile, readlink, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { after, test } from 'node:test'
import { cpFromInstance, cpToInstance } from '@onkernel/hypeman/lib/cp'
import { packTar } from 'modern-tar'
import type { GuestNode } from '../../../tests/support/fake-agent.ts'
import { instanceView } from '../../../tests/support/fake-services.ts'
import { serveFakes, until, type HttpUnderTest } from '../../../tests/support/http-server.ts'
import { notJson, safeTarget } from './copy-from.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-cp-'))
after(() => rm(root, { recursive: true }))

async function serveInstance(): Promise<HttpUnderTest> {
  const server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  return server
}

const configOf = (server: HttpUnderTest): { baseURL: string; apiKey: string } => ({ baseURL: server.url, apiKey: server.token })
const file = (content: string | Buffer, mode = 0o644): GuestNode => ({ kind: 'file', content: Buffer.from(content), options: { mode } })
const directory: GuestNode = { kind: 'directory', options: { mode: 0o755 } }

const finalEnd = '{"type":"end","final":true}'

/** Sends frames and returns the text frames of the answer. */
async function talk(server: HttpUnderTest, frames: readonly (object | Buffer)[]): Promise<string[]> {
  const socket = server.open('/instances/web/cp')
  const texts: string[] = []
  socket.on('message', (data: Buffer, isBinary) => {
    if (!isBinary) texts.push(data.toString('utf8'))
    if (texts.at(-1) === finalEnd) socket.close()
  })
  await once(socket, 'open')
  for (const frame of frames) socket.send(Buffer.isBuffer(frame) ? frame : JSON.stringify(frame))
  await once(socket, 'close')
  return texts
}

test('the official client copies a tree into the guest, byte for byte and with its modes', async () => {
  await using server = await serveInstance()
  const source = await mkdtemp(path.join(root, 'to-'))
  const big = Buffer.alloc(3 * 1024 ** 2 + 17, 'abc')
  await mkdir(path.join(source, 'sub'))
  await writeFile(path.join(source, 'big.bin'), big, { mode: 0o640 })
  await writeFile(path.join(source, 'sub', 'empty'), '')
  await writeFile(path.join(source, 'sub', 'data.json'), '{"a":1}')
  await cpToInstance(configOf(server), { instanceId: 'web', srcPath: source, dstPath: '/data' })
  const { files } = server.services.agent
  assert.deepEqual([...files.keys()].toSorted(), ['/data', '/data/big.bin', '/data/sub', '/data/sub/data.json', '/data/sub/empty'])
  assert.partialDeepStrictEqual(files.get('/data/big.bin'), { content: big, options: { mode: 0o640 } })
  assert.partialDeepStrictEqual(files.get('/data/sub'), { kind: 'directory' })
  assert.equal((await lstat(source)).isDirectory(), true)
})

test('the official client gets told why a copy into the guest failed', async () => {
  await using server = await serveInstance()
  server.services.agent.files.set('/data', directory)
  server.services.agent.files.set('/plain', file('x'))
  const source = path.join(root, 'source.txt')
  await writeFile(source, Buffer.alloc(2 * 1024 ** 2))
  await assert.rejects(
    cpToInstance(configOf(server), { instanceId: 'web', srcPath: source, dstPath: '/data' }),
    /Copy failed: \/data is a directory/,
  )
  await assert.rejects(
    cpToInstance(configOf(server), { instanceId: 'web', srcPath: root, dstPath: '/plain' }),
    /Copy failed: \/plain is a file/,
  )
})

test('the official client copies a tree out of the guest: files of every size, small JSON files, links', async () => {
  await using server = await serveInstance()
  const big = Buffer.alloc(2 * 1024 ** 2 + 5, '[1]')
  const contents: Readonly<Record<string, string | Buffer>> = {
    big,
    empty: '',
    'object.json': '{"a":1}',
    'list.json': '[[1],{"b":[]}]',
    'spaces.json': '  {"a":1}\n',
    bracket: '[',
    [`${'long-'.repeat(40)}name`]: 'long',
  }
  const { files } = server.services.agent
  files.set('/srv/app', directory)
  for (const [name, content] of Object.entries(contents)) files.set(`/srv/app/${name}`, file(content, 0o600))
  files.set('/srv/app/sub', directory)
  files.set('/srv/app/sub/relative', { kind: 'link', target: '../empty' })
  files.set('/srv/app/sub/absolute', { kind: 'link', target: '/srv/app/big' })
  files.set('/srv/app/sub/outside', { kind: 'link', target: '/etc/passwd' })
  files.set('/srv/app/sub/escaping', { kind: 'link', target: '../../../etc/passwd' })
  files.set('/srv/app/zz-last', { kind: 'link', target: '/etc/passwd' })
  const target = await mkdtemp(path.join(root, 'from-'))
  await cpFromInstance(configOf(server), { instanceId: 'web', srcPath: '/srv/app', dstPath: target })
  for (const [name, content] of Object.entries(contents)) {
    const copied = path.join(target, 'app', name)
    // Where the last entry is a link, the client says that it is done before its files are written out.
    await until(() => statSync(copied).mtimeMs === 1_700_000_000_000)
    const bytes = await readFile(copied)
    assert.ok(bytes.equals(Buffer.from(content)), `${name}: ${bytes.length} bytes`)
    assert.equal((await lstat(copied)).mode & 0o777, 0o600)
  }
  assert.equal(await readlink(path.join(target, 'app/sub/relative')), '../empty')
  assert.equal(await readlink(path.join(target, 'app/sub/absolute')), '../big')
  for (const gone of ['outside', 'escaping']) await assert.rejects(lstat(path.join(target, 'app/sub', gone)), { code: 'ENOENT' })
})

test('a single file lands under its own name', async () => {
  await using server = await serveInstance()
  server.services.agent.files.set('/etc/motd', file('hello'))
  const target = await mkdtemp(path.join(root, 'one-'))
  await cpFromInstance(configOf(server), { instanceId: 'web', srcPath: '/etc/motd', dstPath: target })
  assert.equal(await readFile(path.join(target, 'motd'), 'utf8'), 'hello')
})

test('what is not there, and a lone link that leads elsewhere, is an error with its path', async () => {
  await using server = await serveInstance()
  server.services.agent.files.set('/etc/localtime', { kind: 'link', target: '/usr/share/zoneinfo/UTC' })
  const from = (guestPath: string): Promise<string[]> => talk(server, [{ direction: 'from', guest_path: guestPath }])
  assert.deepEqual(await from('/nothing'), ['{"type":"error","message":"stat: /nothing: no such file or directory","path":"/nothing"}'])
  const [lone = '', ...more] = await from('/etc/localtime')
  assert.match(lone, /^\{"type":"error","message":".*follow_links","path":"\/etc\/localtime"\}$/)
  assert.equal(more.length, 0)
})

test('entries are announced, ended one by one, and only the last end is final', async () => {
  await using server = await serveInstance()
  server.services.agent.files.set('/a', directory)
  server.services.agent.files.set('/a/f', file('xyz', 0o751))
  server.services.agent.files.set('/a/l', { kind: 'link', target: 'f' })
  const texts = (await talk(server, [{ direction: 'from', guest_path: '/a', follow_links: false, src_basename: 'a' }])).map(
    (text) => JSON.parse(text) as unknown,
  )
  const common = { type: 'header', mtime: 1_700_000_000, uid: 0, gid: 0 }
  assert.deepEqual(texts, [
    { ...common, path: 'a', mode: 0o755, is_dir: true, size: 0 },
    { type: 'end', final: false },
    { ...common, path: 'a/f', mode: 0o751, is_dir: false, size: 3 },
    { type: 'end', final: false },
    { ...common, path: 'a/l', mode: 0o644, is_dir: false, is_symlink: true, link_target: 'f', size: 0 },
    { type: 'end', final: true },
  ])
})

test('an archive that breaks off is an error and has no final end', async () => {
  await using server = await serveInstance()
  const whole = await packTar([{ header: { name: 'f', size: 100_000, type: 'file' }, body: new Uint8Array(100_000) }])
  for (const archive of [
    Readable.from([whole.subarray(0, 50_000)]),
    Readable.from(
      (async function* () {
        yield whole.subarray(0, 50_000)
        throw new Error('the channel broke')
      })(),
    ),
  ]) {
    server.services.agent.archive = archive
    const texts = await talk(server, [{ direction: 'from', guest_path: '/f' }])
    assert.match(texts.at(-1) ?? '', /^\{"type":"error"/)
    assert.ok(!texts.some((text) => text.includes('"end"')))
  }
})

test('names with which a guest would reach out of the destination are not passed on', async () => {
  await using server = await serveInstance()
  server.services.agent.archive = Readable.from([await packTar([{ header: { name: 'a/../../evil', size: 1, type: 'file' }, body: 'x' }])])
  const texts = await talk(server, [{ direction: 'from', guest_path: '/a' }])
  assert.equal(texts.length, 1)
  assert.match(texts[0] ?? '', /leads out/)
})

test('a reader that is slow holds the guest back', async () => {
  await using server = await serveInstance()
  let sent = 0
  const size = 64 * 1024 ** 2
  const [header] = [await packTar([{ header: { name: 'f', size: 0, type: 'file' } }])]
  assert.ok(header)
  server.services.agent.archive = Readable.from(
    (async function* () {
      const blocks = Buffer.from(header.subarray(0, 512))
      blocks.write(size.toString(8).padStart(11, '0'), 124, 'latin1')
      blocks.fill(' ', 148, 156)
      blocks.write(
        `${blocks
          .reduce((sum, byte) => sum + byte, 0)
          .toString(8)
          .padStart(6, '0')}\0 `,
        148,
        'latin1',
      )
      yield blocks
      for (; sent < size; sent += 65_536) yield Buffer.alloc(65_536)
      yield Buffer.alloc(1024)
    })(),
    { objectMode: false },
  )
  const socket = server.open('/instances/web/cp')
  let received = 0
  let last = ''
  socket.on('message', (data: Buffer, isBinary) => {
    if (isBinary) received += data.length
    else last = data.toString('utf8')
    if (last === finalEnd) socket.close()
  })
  await once(socket, 'open')
  socket.pause()
  socket.send(JSON.stringify({ direction: 'from', guest_path: '/f' }))
  let before = -1
  while (before !== sent || sent === 0) {
    before = sent
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  assert.ok(sent < size / 2, `${sent} bytes were taken though nobody reads`)
  socket.resume()
  await once(socket, 'close')
  assert.equal(received, size)
  assert.equal(last, finalEnd)
})

test('modes have defaults, and an owner counts only when user and group are both given', async () => {
  await using server = await serveInstance()
  const put = (request: object): Promise<string[]> => talk(server, [{ direction: 'to', ...request }, { type: 'end' }])
  assert.deepEqual(await put({ guest_path: '/f', mode: 0, uid: 0, gid: 0 }), ['{"type":"result","success":true,"bytes_written":0}'])
  await put({ guest_path: '/d', is_dir: true, uid: 1000 })
  await put({ guest_path: '/o', mode: 0o4711, uid: 1000, gid: 100 })
  const { files } = server.services.agent
  assert.partialDeepStrictEqual(files.get('/f'), { options: { mode: 0o644 } })
  assert.partialDeepStrictEqual(files.get('/d'), { kind: 'directory', options: { mode: 0o755 } })
  assert.partialDeepStrictEqual(files.get('/o'), { options: { mode: 0o4711, uid: 1000, gid: 100 } })
  const owned = files.get('/d')
  assert.ok(owned?.kind === 'directory' && owned.options.uid === undefined)
})

test('an upload that breaks off leaves nothing, and says nothing', async () => {
  await using server = await serveInstance()
  const socket = server.open('/instances/web/cp')
  await once(socket, 'open')
  socket.send(JSON.stringify({ direction: 'to', guest_path: '/half' }))
  await new Promise((resolve) => socket.send(Buffer.alloc(100_000), resolve))
  socket.close()
  await once(socket, 'close')
  await until(() => server.log.some((line) => line['route'] === '/instances/:id/cp'))
  assert.equal(server.services.agent.files.size, 0)
})

test('requests that make no sense are errors in the words of the reference', async () => {
  await using server = await serveInstance()
  assert.deepEqual(await talk(server, [{ direction: 'up', guest_path: '/x' }]), [
    `{"type":"error","message":"invalid direction: up (must be 'to' or 'from')"}`,
  ])
  assert.match((await talk(server, [Buffer.from('{}')]))[0] ?? '', /first message must be JSON text/)
  assert.match((await talk(server, [{ direction: 'to' }]))[0] ?? '', /invalid request: guest_path/)
  assert.match(
    (await talk(server, [{ direction: 'to', guest_path: '/x' }, { type: 'what' }]))[0] ?? '',
    /"success":false,"error":".*only \{\\"type\\":\\"end\\"\}/,
  )
})

test('no frame of data is valid JSON, and the frames are the data', () => {
  for (const text of ['{"a":1}', '[]', '[[[]]]', '{}', '[1', 'plain', '', '{"a":"é"}', '[', 'null'])
    for (const chunk of [Buffer.from(text)]) {
      const frames = notJson(chunk)
      assert.equal(Buffer.concat(frames).toString('utf8'), text)
      for (const frame of frames)
        if (frame[0] === 0x7b || frame[0] === 0x5b) assert.throws(() => JSON.parse(Buffer.from(frame).toString('utf8')))
    }
})

test('targets of links stay inside of what is copied', () => {
  for (const [name, target, guestPath, wanted] of [
    ['app/sub/l', '../x', '/srv/app', '../x'],
    ['app/l', 'x/../../app/y', '/srv/app', 'x/../../app/y'],
    ['app/l', '../../x', '/srv/app', undefined],
    ['app/sub/l', '/srv/app/x/y', '/srv/app', '../x/y'],
    ['app/l', '/srv/app', '/srv/app/', '.'],
    ['app/l', '/srv/apple', '/srv/app', undefined],
    ['bin/sh', '/usr/bin/sh', '/', '../usr/bin/sh'],
    ['app/l', '', '/srv/app', undefined],
    ['l', '/etc/x', '/l', undefined],
  ] as const)
    assert.equal(safeTarget(name, target, guestPath), wanted, `${name} → ${target}`)
})
