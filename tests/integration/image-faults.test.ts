// What goes wrong with images: damaged and hostile layers, a full disk, an end in the middle. Nothing may be left, and nothing outside touched.

import assert from 'node:assert/strict'
import { readFile, truncate, writeFile } from 'node:fs/promises'
import { createServer, request as httpRequest } from 'node:http'
import { once } from 'node:events'
import path from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { isHypemanError, type ErrorCode } from '../../src/api/errors.ts'
import type { ImageProgress } from '../../src/images/types.ts'
import { run } from '../support/command.ts'
import { assertOnDisk, mountErofs, mountSmallDisk, startImages, type TestImages } from '../support/images.ts'
import { type LayerEntry, type TestImage } from '../support/oci.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'

const needsRoot = { skip: process.geteuid?.() === 0 ? false : 'mounting needs root' }
const limit = (): AbortSignal => AbortSignal.timeout(60_000)
const refusedWith =
  (code: ErrorCode, words = /./) =>
  (error: unknown): boolean =>
    isHypemanError(error, code) && words.test(error.message)

const image = (...layers: readonly (readonly LayerEntry[])[]): TestImage => ({ layers })

/** Pushes the image, pulls it, and returns how it ended. */
async function pullOf(
  service: TestImages,
  registry: TestRegistry,
  pushed: TestImage,
  spoil?: (layer: string) => Promise<void>,
): Promise<string> {
  const built = await service.build(pushed)
  await registry.push(built.layout, 'app:1')
  if (spoil !== undefined) await spoil(built.layerDigests[0] ?? '')
  const name = `${registry.host}/app:1`
  await service.images.pull({ name })
  await service.images.waitReady(name, limit()).catch(() => undefined)
  const { status, error } = service.images.get(name)
  await service.images.remove(name)
  return `${status}: ${error}`
}

const text = [{ path: 'file', content: 'x'.repeat(100_000) }]

test('damaged layers make the image fail, with a reason, and leave nothing', async () => {
  await using registry = await startRegistry()
  await using service = await startImages()
  const cut = await pullOf(service, registry, { ...image(text), spoil: (layer) => layer.subarray(0, layer.length - 20) })
  assert.match(cut, /^failed: layer 1 of .* is damaged: unexpected end of file/)
  const noTar = await pullOf(service, registry, { ...image(text), compression: 'none', spoil: () => Buffer.from('x'.repeat(2_000)) })
  assert.match(noTar, /^failed: layer 1 of .* is damaged/)
  const swapped = await pullOf(service, registry, image([{ path: 'one', content: '1' }]), async (layer) => {
    const file = registry.blobFile(layer)
    const bytes = await readFile(file)
    bytes[30] = (bytes[30] ?? 0) ^ 0xff
    await writeFile(file, bytes)
  })
  assert.match(swapped, /^failed: a layer of .* is damaged in the registry/)
  const short = await pullOf(service, registry, image([{ path: 'two', content: '2'.repeat(5_000) }]), (layer) =>
    truncate(registry.blobFile(layer), 40),
  )
  assert.match(short, /^failed: /)
  await assertOnDisk(service.layout, [])
})

test('hostile layers touch nothing outside of the image', needsRoot, async () => {
  await using registry = await startRegistry()
  await using service = await startImages()
  const outside = await service.directory()
  const precious = path.join(outside, 'precious')
  await writeFile(precious, 'untouched')

  for (const entry of [
    { path: '../../../../../../../..' + precious, content: 'x' },
    { path: 'a/../../b', content: 'x' },
    { path: 'link', type: 'hardlink', linkTo: `../../../../../../../../..${precious}` },
    { path: 'x', content: 'x', pax: { path: '../b' } },
  ] satisfies LayerEntry[])
    assert.match(await pullOf(service, registry, image([entry])), /^failed: .*points outside the image/)

  const escaping = image(
    [
      { path: 'out', type: 'symlink', linkTo: outside },
      { path: 'up', type: 'symlink', linkTo: '../../../../../../../../../..' },
      { path: outside, type: 'directory' },
    ],
    [
      { path: 'out/precious', content: 'overwritten' },
      { path: `up${precious}-2`, content: 'escaped' },
      { path: `${outside}/absolute`, content: 'inside' },
      { path: 'out/.wh.precious-3' },
    ],
  )
  const built = await service.build(escaping)
  await registry.push(built.layout, 'escape:1')
  const name = `${registry.host}/escape:1`
  await service.images.pull({ name })
  const ready = await service.images.waitReady(name, limit())
  assert.equal(await readFile(precious, 'utf8'), 'untouched')
  assert.equal((await run('ls', [outside])).stdout, 'precious\n')
  await using root = await mountErofs(ready.rootfsPath)
  assert.equal(await readFile(path.join(root.path, outside, 'absolute'), 'utf8'), 'inside')
  assert.equal(await readFile(path.join(root.path, precious), 'utf8'), 'overwritten')
})

test('an image that becomes too large is refused before it is unpacked', async () => {
  await using registry = await startRegistry()
  await using service = await startImages({ maxUnpackedBytes: 1024 ** 2 })
  const zeros = [{ path: 'zeros', content: Buffer.alloc(2 * 1024 ** 2) }]
  assert.match(await pullOf(service, registry, image(zeros)), /^failed: .*larger than 1\.0 MB when unpacked/)
  assert.match(await pullOf(service, registry, { ...image(zeros), compression: 'zstd' }), /^failed: .*larger than 1\.0 MB/)
  const sparse = [
    {
      path: 'sparse',
      content: '1\n0\n1\n',
      pax: { 'GNU.sparse.realsize': String(2 ** 40), 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0' },
    },
  ]
  assert.match(await pullOf(service, registry, image(sparse)), /^failed: .*larger than 1\.0 MB when unpacked/)
  const endless = Readable.from(
    (function* () {
      for (;;) yield Buffer.alloc(64 * 1024)
    })(),
  )
  await assert.rejects(service.images.importArchive('endless', endless), refusedWith('invalid_archive', /larger than/))
  await assertOnDisk(service.layout, [])
})

test('a full disk is said, leaves nothing, and hurts nothing that is there', needsRoot, async () => {
  await using registry = await startRegistry()
  await using disk = await mountSmallDisk(6)
  await using service = await startImages({ dataDirectory: path.join(disk.path, 'data') })
  const little = await service.build(image([{ path: 'little', content: 'little' }]))
  await registry.push(little.layout, 'little:1')
  await service.images.pull({ name: `${registry.host}/little:1` })
  await service.images.waitReady(`${registry.host}/little:1`, limit())

  const noise = Buffer.from(Array.from({ length: 8 * 1024 ** 2 }, (_, at) => (at * 2_654_435_761) >>> 13))
  assert.match(await pullOf(service, registry, image([{ path: 'noise', content: noise }])), /^failed: no space left|^failed: .* needs /)
  const zeros = image([{ path: 'zeros', content: Buffer.alloc(8 * 1024 ** 2) }])
  assert.match(await pullOf(service, registry, zeros), /^failed: .* needs .* to be converted/)
  const archive = Readable.from(
    (function* () {
      for (let at = 0; at < 200; at += 1) yield Buffer.alloc(64 * 1024)
    })(),
  )
  await assert.rejects(service.images.importArchive('big', archive), refusedWith('storage_full'))
  await assertOnDisk(service.layout, [little.digest])
  await service.restart()
  assert.equal(service.images.ready(`${registry.host}/little:1`).digest, little.digest)
})

test('many pulls of one image convert it once, and each is told how far it is and that it is ready', async () => {
  await using registry = await startRegistry()
  await using service = await startImages({ maxConcurrentPulls: 1 })
  const [one, two] = [await service.build(image(text)), await service.build(image([{ path: 'other', content: 'y' }]))]
  for (const tag of ['a', 'b', 'c']) await registry.push(one.layout, `app:${tag}`)
  await registry.push(two.layout, 'other:1')
  const names = ['app:a', 'app:b', 'app:c', 'other:1'].map((name) => `${registry.host}/${name}`)
  const listening = new AbortController()
  const seen: ImageProgress[] = []
  const heard = (async (): Promise<void> => {
    for await (const piece of service.images.progress(listening.signal)) {
      seen.push(piece)
      if (names.every((name) => seen.some((each) => each.name === name && each.status === 'ready'))) listening.abort()
    }
  })()
  const pulled = await Promise.all(names.map((name) => service.images.pull({ name })))
  assert.equal(new Set(pulled.map(({ digest }) => digest)).size, 2)
  await Promise.all(names.map((name) => service.images.waitReady(name, limit())))
  await heard
  const unpacked = service.logged.filter((line) => line.includes('"step":"unpack"'))
  assert.equal(unpacked.length, 2)
  const fetched = seen.filter((piece) => piece.status === 'converting' && piece.name === names[0])
  assert.ok(fetched.every(({ totalBytes = 0 }) => totalBytes > 0))
})

test('a stop in the middle of a pull leaves nothing, and so does a removal', async () => {
  await using registry = await startRegistry()
  const stalls = Promise.withResolvers<void>()
  const reached = Promise.withResolvers<void>()
  await using service = await startImages({
    faults: {
      before: async (id) => {
        if (id !== 'image.convert/unpack') return
        reached.resolve()
        await stalls.promise
      },
      after: () => undefined,
    },
  })
  const built = await service.build(image(text))
  await registry.push(built.layout, 'app:1')
  const name = `${registry.host}/app:1`
  await service.images.pull({ name })
  await reached.promise
  assert.throws(() => service.images.ready(name), refusedWith('image_not_ready', /converting/))
  const waiting = service.images.waitReady(name, limit())
  await service.images.remove(name)
  const again = service.images.pull({ name })
  stalls.resolve()
  await assert.rejects(waiting, refusedWith('not_found', /removed/))
  await again
  await service.images.waitReady(name, limit())
  await assertOnDisk(service.layout, [built.digest])

  await service.images.remove(name)
  await service.images.pull({ name })
  const closed = service.images.waitReady(name, limit())
  await Promise.all([assert.rejects(closed, refusedWith('canceled')), service.images.close()])
  await assertOnDisk(service.layout, [])
})

test('a record that cannot be read is reported and hides nothing else', async () => {
  await using registry = await startRegistry()
  await using service = await startImages()
  const built = await service.build(image(text))
  for (const tag of ['good', 'bad']) {
    await registry.push(built.layout, `app:${tag}`)
    await service.images.pull({ name: `${registry.host}/app:${tag}` })
    await service.images.waitReady(`${registry.host}/app:${tag}`, limit())
  }
  const { stdout } = await run('grep', ['-l', ':bad"', '-r', service.layout.imageReferences])
  await writeFile(stdout.trim(), '{"version": 7}')
  await service.restart()
  assert.deepEqual(
    service.images.list().map((each) => [each.name, each.status]),
    [[`${registry.host}/app:good`, 'ready']],
  )
  assert.ok(service.logged.some((line) => line.includes("can't be read")))

  await writeFile(path.join(service.layout.image(built.digest.slice(7)), 'image.json'), '{')
  await service.restart()
  assert.match(service.images.get(`${registry.host}/app:good`).error ?? '', /missing or damaged/)
  assert.throws(() => service.images.ready(`${registry.host}/app:good`), refusedWith('image_not_ready'))
  await service.images.pull({ name: `${registry.host}/app:good` })
  await service.images.waitReady(`${registry.host}/app:good`, limit())
  await assertOnDisk(service.layout, [built.digest])
})

test('a registry token is used without being an argument of any process', async () => {
  await using registry = await startRegistry()
  await using service = await startImages()
  const built = await service.build(image(text))
  await registry.push(built.layout, 'team/app:1')
  const token = 'the-token-of-ada'
  const guarded = createServer((incoming, outgoing) => {
    if (incoming.headers.authorization !== `Bearer ${token}`) {
      outgoing.writeHead(401, { 'www-authenticate': 'Bearer realm="http://127.0.0.1:1/token"' }).end()
      return
    }
    const { authorization: _dropped, ...headers } = incoming.headers
    const passed = httpRequest(`http://${registry.host}${incoming.url}`, { method: incoming.method ?? 'GET', headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 500, answer.headers)
      answer.pipe(outgoing)
    })
    incoming.pipe(passed)
  })
  guarded.listen(0, '127.0.0.1')
  await once(guarded, 'listening')
  const address = guarded.address()
  const name = `127.0.0.1:${typeof address === 'object' ? address?.port : 0}/team/app:1`
  try {
    await assert.rejects(service.images.pull({ name, credentials: { registryToken: 'wrong' } }), refusedWith('invalid_request', /refuses/))
    await service.images.pull({ name, credentials: { registryToken: token } })
    assert.equal((await service.images.waitReady(name, limit())).digest, built.digest)
    assert.ok(!service.logged.some((line) => line.includes(token)))
  } finally {
    guarded.close()
    guarded.closeAllConnections()
  }
})
