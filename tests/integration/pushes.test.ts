// Images of a real server on their way to real registries, asked for through the official client alone. Boots nothing.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { APIError, type Hypeman } from '@onkernel/hypeman'
import { run } from '../support/command.ts'
import { buildLayout, type LayerEntry } from '../support/oci.ts'
import { endedPush, imageReady, layer, pulledImage } from '../support/pushes.ts'
import { startRegistryProxy } from '../support/registry-proxy.ts'
import { account, startRegistry, type TestRegistry } from '../support/registry.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { until } from '../support/until.ts'

let [server, source, target, home] = [] as unknown as [TestServer, TestRegistry, TestRegistry, string]

before(async () => {
  home = await mkdtemp(path.join(os.tmpdir(), 'pushes-'))
  ;[server, source, target] = await Promise.all([startServer(), startRegistry(), startRegistry({ withPassword: true })])
})
after(async () => {
  await Promise.all([server[Symbol.asyncDispose](), source[Symbol.asyncDispose](), target[Symbol.asyncDispose]()])
  await rm(home, { recursive: true })
})

const pulled = (name: string, layers: readonly LayerEntry[][]): ReturnType<typeof pulledImage> =>
  pulledImage({ server, source, home }, name, layers)
const ready = (name: string): Promise<void> => imageReady(server, name)
const ended = (push: Hypeman.Push): Promise<Hypeman.Push> => endedPush(server, push)

const answers =
  (status: number, code: string, words = /./) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof APIError)
    const { code: said, message } = error.error as { readonly code: string; readonly message: string }
    assert.deepEqual([error.status, said], [status, code], message)
    return words.test(message)
  }

test('a pushed image has the same digest at the target, and comes back from there as it was', async () => {
  const { name, digest } = await pulled('team/app:1', [layer('one'), layer('two', 1_000)])
  const to = `${target.host}/elsewhere/copy:2`
  const { data: begun, response } = await server.client.pushes.create({ image: name, target: to, credentials: account }).withResponse()
  assert.deepEqual([response.status, response.headers.get('location')], [202, `/pushes/${begun.id}`])
  assert.match(response.headers.get('retry-after') ?? '', /^\d+$/)
  assert.deepEqual([begun.image, begun.target, begun.digest, begun.bytes, begun.layers], [name, to, digest, undefined, undefined])

  const push = await ended(begun)
  assert.deepEqual([push.status, push.layers, push.error ?? null], ['pushed', 2, null])
  assert.ok((push.bytes ?? 0) > 21_000 && (push.completed_at ?? '') > push.created_at)
  assert.equal((await server.client.pushes.list())[0]?.id, push.id)

  await server.client.images.delete(encodeURIComponent(name))
  const back = await server.client.images.create({ name: to, credentials: account })
  assert.equal(back.digest, digest)
  await ready(to)
})

test("a Docker image, and one from Docker's archive, keep the digests that they are listed with", async () => {
  const layout = path.join(await mkdtemp(path.join(home, 'image-')), 'oci')
  await buildLayout(layout, { layers: [layer('docker')], config: { Cmd: ['/x'] } })
  const at = `${source.host}/docker/app:1`
  const copied = await run('skopeo', [
    ...['copy', '--quiet', '--format', 'v2s2', '--dest-tls-verify=false'],
    ...[`oci:${layout}:image`, `docker://${at}`],
  ])
  assert.equal(copied.code, 0, copied.stderr)
  const archive = path.join(home, 'docker.tar')
  const saved = await run('skopeo', ['copy', '--quiet', `oci:${layout}:image`, `docker-archive:${archive}:app:1`])
  assert.equal(saved.code, 0, saved.stderr)
  const imported = await fetch(`${server.url}/images/import?name=archived:1`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, 'content-type': 'application/x-tar' },
    body: new Uint8Array(await readFile(archive)),
  })
  assert.equal(imported.status, 202)
  await server.client.images.create({ name: at })
  for (const image of [at, 'docker.io/library/archived:1']) {
    await ready(image)
    const to = `${source.host}/from/${image === at ? 'docker' : 'archive'}:1`
    const push = await ended(await server.client.pushes.create({ image, target: to }))
    assert.equal(push.status, 'pushed', push.error ?? '')
    const inspected = await run('skopeo', ['inspect', '--tls-verify=false', '--format', '{{.Digest}}', `docker://${to}`])
    assert.equal(inspected.stdout.trim(), push.digest)
    assert.equal(push.digest, (await server.client.images.get(encodeURIComponent(image))).digest)
  }
})

test('what the target has is not sent again: nothing of the same image, no layer to another repository, one of an image with one more', async () => {
  await using proxy = await startRegistryProxy(target.host)
  const base = [layer('base', 200_000)]
  const first = await pulled('layered:1', base)
  const push = async (image: string, tag: string, repository = 'layered'): Promise<readonly number[]> => {
    const already = proxy.sent.length
    const done = await ended(
      await server.client.pushes.create({ image, target: `${proxy.host}/${repository}:${tag}`, credentials: account }),
    )
    assert.equal(done.status, 'pushed', done.error ?? '')
    return proxy.sent.slice(already)
  }
  assert.equal((await push(first.name, '1')).length, 2, 'a layer and a config')
  assert.deepEqual(await push(first.name, '1'), [])
  assert.deepEqual(await push(first.name, 'again'), [], 'under another tag')

  assert.equal((await push(first.name, '1', 'team/other')).length, 1, 'the config; the layer is mounted')
  assert.ok(proxy.asked.some((asked) => asked.startsWith('POST /v2/team/other/') && asked.includes('mount=')))

  const second = await pulled('layered:2', [...base, layer('more', 3_000)])
  const sent = await push(second.name, '2')
  assert.equal(sent.length, 2, 'the new layer and the new config')
  assert.ok(sent.reduce((sum, bytes) => sum + bytes, 0) < 10_000, sent.join())
})

test('a wrong password and a registry that is away make the push fail with the reason; credentials are nowhere', async () => {
  const { name } = await pulled('secret:1', [layer('secret')])
  const password = `wrong-${randomBytes(12).toString('hex')}`
  const [refused, none, away] = await Promise.all(
    [
      { target: `${target.host}/secret:1`, credentials: { username: 'ada', password } },
      { target: `${target.host}/secret:none` },
      { target: '127.0.0.1:1/secret:1' },
    ].map(async (wanted) => await ended(await server.client.pushes.create({ image: name, ...wanted }))),
  )
  assert.deepEqual([refused?.status, none?.status, away?.status], ['failed', 'failed', 'failed'])
  assert.match(refused?.error ?? '', /refuses them for .*check them/)
  assert.match(none?.error ?? '', /wants other credentials .*give some/)
  assert.match(away?.error ?? '', /can't be reached/)
  assert.equal(away?.bytes, undefined)
  const held = await run('grep', [
    '-rlaF',
    '-e',
    password,
    '-e',
    Buffer.from(`ada:${password}`).toString('base64'),
    server.dataDirectory,
    '/dev/shm',
  ])
  assert.equal(held.stdout, '')
  assert.ok(!(await server.log()).includes(password))
})

test('a connection that breaks costs no push: it is tried again', async () => {
  await using proxy = await startRegistryProxy(target.host)
  const { name, digest } = await pulled('broken:1', [layer('broken', 100_000)])
  proxy.breakNext()
  const push = await ended(await server.client.pushes.create({ image: name, target: `${proxy.host}/broken:1`, credentials: account }))
  assert.deepEqual([push.status, push.digest, push.error ?? null], ['pushed', digest, null])
})

test('a layer that is damaged on the disk arrives nowhere, and the push says what to do', async () => {
  const { name, digest, layerDigests } = await pulled('damaged:1', [layer('damaged')])
  const hex = (one = ''): string => one.slice('sha256:'.length)
  const file = path.join(server.dataDirectory, 'images', 'rootfs', hex(digest), 'blobs', hex(layerDigests[0]))
  const bytes = await readFile(file)
  bytes[1_000] = (bytes[1_000] ?? 0) ^ 0xff
  await writeFile(file, bytes)
  const push = await ended(await server.client.pushes.create({ image: name, target: `${target.host}/damaged:1`, credentials: account }))
  assert.match(`${push.status}: ${push.error ?? ''}`, /^failed: .*damaged.*pull it again/) // which helps
  await server.client.images.delete(encodeURIComponent(name))
  await server.client.images.create({ name })
  await ready(name)
  const again = await ended(await server.client.pushes.create({ image: name, target: `${target.host}/damaged:1`, credentials: account }))
  assert.equal(again.status, 'pushed', again.error ?? '')
})

test('a layer that was lost from the disk is there again when its image is pulled again, also under an image that is in use', async () => {
  const { name, digest, layerDigests } = await pulled('lost:1', [layer('lost')])
  const [image = '', blob = ''] = [digest, layerDigests[0]].map((one) => one?.slice('sha256:'.length))
  await rm(path.join(server.dataDirectory, 'images', 'rootfs', image, 'blobs', blob))
  const toTarget = { image: name, target: `${target.host}/lost:1`, credentials: account }
  await assert.rejects(server.client.pushes.create(toTarget), answers(409, 'conflict', /missing.*pull it again/))
  await server.client.images.create({ name })
  await ready(name)
  const push = await ended(await server.client.pushes.create(toTarget))
  assert.equal(push.status, 'pushed', push.error ?? '')
})

test('what can not be pushed is refused with what is wrong', async () => {
  const { name } = await pulled('refused:1', [layer('refused')])
  const to = `${source.host}/refused:2`
  const create = (body: Hypeman.PushCreateParams): Promise<Hypeman.Push> => server.client.pushes.create(body)
  await assert.rejects(create({ image: 'nowhere:1', target: to }), answers(404, 'not_found'))
  await assert.rejects(create({ image: 'No Image', target: to }), answers(400, 'invalid_name'))
  await assert.rejects(create({ image: name, target: 'Not A Reference' }), answers(400, 'invalid_target'))
  await assert.rejects(create({ image: name, target: `${source.host}/x@sha256:${'0'.repeat(64)}` }), answers(400, 'invalid_target', /tag/))
  await assert.rejects(server.client.pushes.get('nosuchpush'), answers(404, 'not_found'))

  await using proxy = await startRegistryProxy(source.host)
  const layout = path.join(await mkdtemp(path.join(home, 'image-')), 'oci')
  const { layerDigests } = await buildLayout(layout, { layers: [layer('slow')] })
  await source.push(layout, 'slow:1')
  proxy.hold((asked) => asked.endsWith(layerDigests[0] ?? ''))
  const slow = `${proxy.host}/slow:1`
  await server.client.images.create({ name: slow })
  await assert.rejects(create({ image: slow, target: to }), answers(409, 'image_not_ready', /try again/))
  proxy.release()
  await ready(slow)
  assert.equal((await ended(await create({ image: slow, target: to }))).status, 'pushed')
})

test('two are sent at once, the others wait in order; the same push is one, another to the same target is refused', async () => {
  await using proxy = await startRegistryProxy(target.host)
  const one = await pulled('queue:1', [layer('queue-1')])
  const two = await pulled('queue:2', [layer('queue-2')])
  const to = (tag: string): string => `${proxy.host}/queue:${tag}`
  const create = (image: string, tag: string, credentials = account as Hypeman.PushCredentials): Promise<Hypeman.Push> =>
    server.client.pushes.create({ image, target: to(tag), credentials })
  proxy.hold()
  const begun: Hypeman.Push[] = []
  for (const tag of ['a', 'b', 'c', 'd']) begun.push(await create(one.name, tag))
  await until('two are being sent', () => proxy.held === 2)
  const states = (await server.client.pushes.list()).slice(0, 4).map(({ target: at, status, queue_position: place }) => [at, status, place])
  assert.deepEqual(states, [
    [to('d'), 'queued', 2],
    [to('c'), 'queued', 1],
    [to('b'), 'pushing', undefined],
    [to('a'), 'pushing', undefined],
  ])
  assert.equal((await create(one.name, 'a')).id, begun[0]?.id)
  await assert.rejects(create(two.name, 'a'), answers(409, 'conflict', /is under way/))
  await assert.rejects(create(one.name, 'a', { username: 'ada', password: 'another' }), answers(409, 'credential_conflict'))
  assert.equal((await server.client.pushes.get(begun[2]?.id.slice(0, 20) ?? '')).id, begun[2]?.id)

  await server.client.images.delete(encodeURIComponent(one.name))
  const directory = path.join(server.dataDirectory, 'images', 'rootfs')
  assert.ok((await readdir(directory)).includes(one.digest.slice('sha256:'.length)), 'a push holds what it sends')
  proxy.release()
  for (const push of begun) assert.equal((await ended(push)).status, 'pushed')
  await until('nothing needs the image any more', async () => !(await readdir(directory)).includes(one.digest.slice('sha256:'.length)))
})

test('a push that was under way when the server was killed goes on; one that had borrowed credentials fails, and says so', async () => {
  await using proxy = await startRegistryProxy(source.host)
  const { name, digest } = await pulled('killed:1', [layer('killed', 100_000)])
  proxy.hold()
  const own = await server.client.pushes.create({ image: name, target: `${proxy.host}/to/killed:own` })
  const borrowed = await server.client.pushes.create({ image: name, target: `${proxy.host}/to/killed:borrowed`, credentials: account })
  const queued = await server.client.pushes.create({ image: name, target: `${proxy.host}/to/killed:queued` })
  await until('two are being sent', () => proxy.held === 2)
  await server.crash()
  await server.restart()
  assert.equal((await server.client.pushes.get(own.id)).status, 'pushing')
  const lost = await server.client.pushes.get(borrowed.id)
  assert.equal(lost.status, 'failed')
  assert.match(lost.error ?? '', /credentials .*push again/)
  proxy.release()
  for (const push of [own, queued]) {
    const done = await ended(push)
    assert.deepEqual([done.status, done.digest, done.error ?? null], ['pushed', digest, null])
  }
  assert.deepEqual(
    (await server.client.pushes.list()).slice(0, 3).map(({ id }) => id),
    [queued.id, borrowed.id, own.id],
  )

  // And one that a graceful stop breaks off.
  proxy.hold()
  const { name: other } = await pulled('stopped:1', [layer('stopped')])
  const stopped = await server.client.pushes.create({ image: other, target: `${proxy.host}/to/stopped:1` })
  await until('it is being sent', () => proxy.held === 1)
  await server.restart()
  proxy.release()
  assert.equal((await ended(stopped)).status, 'pushed')
})

test('an image that was made before blobs were kept gets them with its next pull, and can be pushed then', async () => {
  const { name, digest } = await pulled('old:1', [layer('old')])
  await server.stop()
  await rm(path.join(server.dataDirectory, 'images', 'rootfs', digest.slice('sha256:'.length), 'blobs'), { recursive: true })
  await server.restart()
  const to = `${source.host}/old:2`
  await assert.rejects(server.client.pushes.create({ image: name, target: to }), answers(409, 'conflict', /pull.* again/))
  await server.client.images.create({ name })
  await ready(name)
  assert.equal((await ended(await server.client.pushes.create({ image: name, target: to }))).status, 'pushed')
})

test('hypeman push waits until the target has the image, and push list and get tell of it', async () => {
  const { name, digest } = await pulled('cli:1', [layer('cli')])
  const hypeman = async (...words: string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
    await run(path.resolve('bin/hypeman'), words, { env: { ...process.env, ...server.environment } })
  const to = `${target.host}/cli:2`
  const pushed = await hypeman('push', '--username', account.username, '--password', account.password, name, to)
  assert.deepEqual([pushed.code, pushed.stdout.trim()], [0, `${to}@${digest}`], pushed.stderr)
  const failed = await hypeman('push', name, `${target.host}/cli:3`)
  assert.equal(failed.code, 1)
  assert.match(failed.stderr, /could not be pushed: .*credentials/)
  const detached = await hypeman('push', '-d', name, `${source.host}/cli:4`)
  const listed = await hypeman('push', 'ls', '-q')
  assert.ok(listed.stdout.split('\n').includes(detached.stdout.trim()))
  const shown = await hypeman('push', 'get', detached.stdout.trim())
  assert.equal((JSON.parse(shown.stdout) as Hypeman.Push).target, `${source.host}/cli:4`)
})
