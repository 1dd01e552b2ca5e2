import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { Readable } from 'node:stream'
import { test } from 'node:test'
import { extractPushConfig, pushImage } from '@onkernel/hypeman/lib/push'
import { fastify, type FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { digestOf, tarOf } from '../../tests/support/oci.ts'
import { dataLayout, type DataLayout } from '../files/layout.ts'
import { makeDataDirectories, sweep } from '../files/stage.ts'
import { HypemanError } from '../api/errors.ts'
import type { Image, PushedImage, PushTarget } from '../images/types.ts'
import { signToken } from '../platform/token.ts'
import { createRegistry } from '../registry/index.ts'
import type { RegistryService } from '../registry/types.ts'
import { createAuthenticator } from './auth.ts'
import { registryRoutes } from './registry.ts'

const secret = 'a secret of the tests'
const token = signToken(secret, { subject: 'ada', ttlSeconds: 60 })
const bearer = { authorization: `Bearer ${token}` }
const basic = (user: string, password: string): { authorization: string } => ({
  authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
})

interface Running extends AsyncDisposable {
  readonly app: FastifyInstance
  readonly url: string
  readonly layout: DataLayout
  readonly registry: RegistryService
  /** What was handed on to be converted. */
  readonly pushed: PushedImage[]
  /** Names that images know. */
  readonly known: Set<string>
}

async function start(options: { readonly maxBlobBytes?: number } = {}): Promise<Running> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'registry-routes-'))
  const layout = dataLayout(path.join(home, 'data'))
  await makeDataDirectories(layout)
  const pushed: PushedImage[] = []
  const known = new Set<string>()
  const view = (name: string, digest: string): Image => ({
    name,
    digest,
    platform: 'linux/amd64',
    status: 'ready',
    createdAt: '',
    tags: {},
  })
  const images: PushTarget = {
    async registerPushed(image) {
      pushed.push(image)
      known.add(image.name)
      return view(image.name, image.digest)
    },
    async forget(name) {
      known.delete(name)
    },
    onRemoved: () => undefined,
    get(name) {
      if (known.has(name)) return view(name, '')
      throw new HypemanError('not_found', name)
    },
  }
  const registry = await createRegistry({ layout, log: pino({ level: 'silent' }), images, platform: 'linux/amd64', ...options })
  const app = fastify({ forceCloseConnections: true })
  await app.register(registryRoutes({ registry, authenticator: createAuthenticator([secret]) }))
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    ...{ app, url, layout, registry, pushed, known },
    async [Symbol.asyncDispose]() {
      await app.close()
      await registry.close()
      assert.deepEqual(await readdir(layout.staging), [], 'no upload is left')
      await rm(home, { recursive: true })
    },
  }
}

const send = (running: Running, method: string, target: string, options: RequestInit = {}): Promise<Response> =>
  fetch(running.url + target, { method, ...options, headers: { ...bearer, ...(options.headers as Record<string, string> | undefined) } })

async function errorOf(response: Response): Promise<string> {
  const { errors } = (await response.json()) as { errors: { code: string; message: string }[] }
  assert.equal(errors.length, 1)
  return `${response.status} ${errors[0]?.code}`
}

async function pushBlob(running: Running, repository: string, bytes: Buffer): Promise<string> {
  const started = await send(running, 'POST', `/v2/${repository}/blobs/uploads/`)
  const digest = digestOf(bytes)
  const ended = await send(running, 'PUT', `${started.headers.get('location')}?digest=${digest}`, { body: new Uint8Array(bytes) })
  assert.equal(ended.status, 201)
  return digest
}

test('callers sign in with a bearer token, or with basic authentication and the token that it gives', async () => {
  await using running = await start()
  const refused = await fetch(`${running.url}/v2/`)
  assert.equal(refused.headers.get('www-authenticate'), `Bearer realm="${running.url}/v2/token",service="hypeman"`)
  assert.equal(refused.headers.get('docker-distribution-api-version'), 'registry/2.0')
  assert.equal(await refused.text(), '{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}')
  const accepted = await send(running, 'GET', '/v2/')
  assert.deepEqual([accepted.status, await accepted.text()], [200, '{}'])
  for (const headers of [bearer, basic('ada', token), basic(token, ''), basic(token, 'x')]) {
    assert.equal((await fetch(`${running.url}/v2/`, { headers })).status, 200)
    const answer = await fetch(`${running.url}/v2/token?service=hypeman&scope=repository:app:push,pull`, { headers })
    const given = (await answer.json()) as Record<string, unknown>
    assert.deepEqual([given['token'], given['access_token'], given['expires_in']], [token, token, 300])
  }
  for (const headers of [{}, basic('ada', 'password'), { authorization: 'Bearer nonsense' }])
    for (const target of ['/v2/', '/v2/token', '/v2/app/tags/list', '/v2/app/manifests/latest'])
      assert.equal((await fetch(running.url + target, { headers })).status, 401)
})

test('a token with scopes may do what they say', async () => {
  await using running = await start()
  const authorization = `Bearer ${signToken(secret, { subject: 'ada', ttlSeconds: 60, scopes: ['image:read'] })}`
  assert.equal((await fetch(`${running.url}/v2/`, { headers: { authorization } })).status, 200)
  const upload = await fetch(`${running.url}/v2/app/blobs/uploads/`, { method: 'POST', headers: { authorization } })
  assert.equal(await errorOf(upload), '403 DENIED')
})

test('a blob is uploaded in chunks, and one that broke off goes on where it was', async () => {
  await using running = await start()
  const bytes = Buffer.from('0123456789'.repeat(10_000))
  const started = await send(running, 'POST', '/v2/org/app/blobs/uploads/?mount=sha256:1&from=other')
  assert.equal(started.status, 202)
  const location = started.headers.get('location') ?? ''
  assert.equal(started.headers.get('range'), '0-0')
  const first = await send(running, 'PATCH', location, { body: bytes.subarray(0, 30_000), headers: { 'content-range': '0-29999' } })
  assert.deepEqual([first.status, first.headers.get('range'), first.headers.get('location')], [202, '0-29999', location])
  const wrong = await send(running, 'PATCH', location, { body: 'x', headers: { 'content-range': '5-6' } })
  assert.equal(await errorOf(wrong), '416 RANGE_INVALID')

  await breakOff(`${running.url}${location}`, bytes.subarray(30_000, 50_000))
  const state = await send(running, 'GET', location)
  assert.deepEqual([state.status, state.headers.get('range')], [204, '0-49999'])
  const rest = await send(running, 'PATCH', location, {
    body: Readable.toWeb(Readable.from([bytes.subarray(50_000)])),
    duplex: 'half',
  } as RequestInit)
  assert.equal(rest.headers.get('range'), '0-99999')
  const done = await send(running, 'PUT', `${location}?digest=${digestOf(bytes)}`)
  assert.deepEqual([done.status, done.headers.get('docker-content-digest')], [201, digestOf(bytes)])

  const head = await send(running, 'HEAD', `/v2/org/app/blobs/${digestOf(bytes)}`)
  assert.deepEqual([head.status, head.headers.get('content-length')], [200, '100000'])
  const got = await send(running, 'GET', `/v2/org/app/blobs/${digestOf(bytes)}`)
  assert.equal(got.headers.get('content-type'), 'application/octet-stream')
  assert.ok(Buffer.from(await got.arrayBuffer()).equals(bytes))
  assert.equal(await errorOf(await send(running, 'GET', location)), '404 BLOB_UPLOAD_UNKNOWN')
})

/** Sends a body that never ends, until its bytes have arrived, then cuts the connection. */
async function breakOff(url: string, bytes: Buffer): Promise<void> {
  const request = httpRequest(url, { method: 'PATCH', headers: { ...bearer, 'content-length': bytes.length + 1_000 } })
  request.on('error', () => undefined)
  request.write(bytes)
  const arrived = async (): Promise<boolean> =>
    (await fetch(url, { headers: bearer })).headers.get('range') === `0-${30_000 + bytes.length - 1}`
  const deadline = performance.now() + 5_000
  while (!(await arrived())) assert.ok(performance.now() < deadline, 'the bytes arrive')
  request.destroy()
  // The server notices the end by itself: until then the upload is the broken request's.
  while ((await fetch(url, { method: 'PATCH', headers: { ...bearer, 'content-range': '50000-49999' }, body: '' })).status !== 202)
    assert.ok(performance.now() < deadline, 'the upload is free again')
}

test('what does not have its digest, is too large or was never begun is refused, and nothing of it stays', async () => {
  await using running = await start({ maxBlobBytes: 1_000 })
  const begin = async (): Promise<string> => (await send(running, 'POST', '/v2/app/blobs/uploads/')).headers.get('location') ?? ''
  const other = digestOf(Buffer.from('other'))
  assert.equal(await errorOf(await send(running, 'PUT', `${await begin()}?digest=${other}`, { body: 'bytes' })), '400 DIGEST_INVALID')
  const unfinished = await begin()
  assert.equal(await errorOf(await send(running, 'PUT', unfinished, { body: 'bytes' })), '400 DIGEST_INVALID')
  assert.equal(await errorOf(await send(running, 'PATCH', unfinished, { body: 'x'.repeat(1_001) })), '413 SIZE_INVALID')
  assert.equal((await send(running, 'DELETE', unfinished)).status, 204)
  assert.equal(await errorOf(await send(running, 'PUT', `/v2/app/blobs/uploads/0123?digest=${other}`)), '404 BLOB_UPLOAD_UNKNOWN')
  assert.equal(await errorOf(await send(running, 'GET', `/v2/app/blobs/${other}`)), '404 BLOB_UNKNOWN')
  assert.equal((await send(running, 'HEAD', `/v2/app/blobs/${other}`)).status, 404)
  assert.equal(await errorOf(await send(running, 'GET', '/v2/app/blobs/sha256:..%2F..%2Fsecret')), '404 NAME_UNKNOWN')
  assert.equal(await errorOf(await send(running, 'POST', '/v2/App/blobs/uploads/')), '400 NAME_INVALID')
  assert.equal(await errorOf(await send(running, 'POST', '/v2/a%2Fb%2F..%2Fc/blobs/uploads/')), '400 NAME_INVALID')
  assert.equal(await errorOf(await send(running, 'DELETE', '/v2/app/manifests/latest')), '405 UNSUPPORTED')
  assert.equal(await errorOf(await send(running, 'GET', '/v2/app')), '404 NAME_UNKNOWN')
  assert.deepEqual(await readdir(path.join(running.layout.registry, 'blobs')), [])
})

const config = Buffer.from(JSON.stringify({ os: 'linux', architecture: 'amd64', config: {}, rootfs: { type: 'layers', diff_ids: [] } }))
const layer = tarOf([{ path: 'file', content: 'x' }])

test("the official client's push arrives, is handed on, and can be pulled", async () => {
  await using running = await start()
  const source = {
    config: () => Promise.resolve(config),
    layers: () => Promise.resolve([{ digest: digestOf(layer), size: layer.length, data: layer }]),
  }
  await pushImage(extractPushConfig({ baseURL: running.url, apiKey: token }), source, 'team/app:1.2')
  const [pushed] = running.pushed
  const host = new URL(running.url).host
  assert.deepEqual(
    [pushed?.name, pushed?.aliases, pushed?.totalBytes],
    ['team/app:1.2', [`${host}/team/app:1.2`], config.length + layer.length],
  )

  const made = await mkdtemp(path.join(os.tmpdir(), 'pushed-layout-'))
  await pushed?.writeLayout(made)
  assert.deepEqual((await readdir(made)).toSorted(), ['blobs', 'index.json', 'oci-layout'])
  await rm(made, { recursive: true })

  const manifest = await send(running, 'GET', '/v2/team/app/manifests/1.2')
  assert.equal(manifest.headers.get('content-type'), 'application/vnd.docker.distribution.manifest.v2+json')
  const bytes = Buffer.from(await manifest.arrayBuffer())
  assert.deepEqual([manifest.headers.get('docker-content-digest'), pushed?.digest], [digestOf(bytes), digestOf(bytes)])
  assert.equal((await send(running, 'HEAD', `/v2/team/app/manifests/${digestOf(bytes)}`)).status, 200)
  assert.deepEqual(await (await send(running, 'GET', '/v2/team/app/tags/list')).json(), { name: 'team/app', tags: ['1.2'] })
  assert.equal(await errorOf(await send(running, 'GET', '/v2/team/app/manifests/other')), '404 MANIFEST_UNKNOWN')
  assert.equal(await errorOf(await send(running, 'GET', `/v2/other/manifests/${digestOf(bytes)}`)), '404 MANIFEST_UNKNOWN')
  assert.equal(await errorOf(await send(running, 'GET', '/v2/other/tags/list')), '404 NAME_UNKNOWN')
})

test('a manifest needs its blobs, its digest and a form; what is no image is kept and not handed on', async () => {
  await using running = await start()
  const digest = await pushBlob(running, 'app', config)
  const put = (reference: string, value: unknown): Promise<Response> =>
    send(running, 'PUT', `/v2/app/manifests/${reference}`, {
      body: typeof value === 'string' ? value : JSON.stringify(value),
      headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
    })
  const manifest = {
    schemaVersion: 2,
    config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest, size: config.length },
    layers: [],
  }
  const missing = { ...manifest, layers: [{ mediaType: 'x', digest: digestOf(Buffer.from('missing')), size: 7 }] }
  assert.equal(await errorOf(await put('latest', missing)), '404 MANIFEST_BLOB_UNKNOWN')
  assert.equal(await errorOf(await put('latest', '{')), '400 MANIFEST_INVALID')
  assert.equal(await errorOf(await put('latest', {})), '400 MANIFEST_INVALID')
  assert.equal(await errorOf(await put('-bad', manifest)), '400 TAG_INVALID')
  assert.equal(await errorOf(await put(digestOf(Buffer.from('other')), manifest)), '400 DIGEST_INVALID')
  assert.equal(await errorOf(await put('latest', 'x'.repeat(running.registry.maxManifestBytes + 1))), '413 SIZE_INVALID')
  assert.deepEqual(running.pushed, [])

  assert.equal(
    (await put('chart', { ...manifest, config: { ...manifest.config, mediaType: 'application/vnd.cncf.helm.config.v1+json' } })).status,
    201,
  )
  assert.deepEqual(running.pushed, [])
  assert.equal((await send(running, 'HEAD', '/v2/app/manifests/chart')).status, 200, 'no image that could have failed')
  assert.equal((await put('latest', manifest)).status, 201)
  assert.deepEqual(
    running.pushed.map(({ name }) => name),
    ['app:latest'],
  )
})

test('an index is handed on with its manifest for this platform', async () => {
  await using running = await start()
  const digest = await pushBlob(running, 'app', config)
  const child = Buffer.from(JSON.stringify({ schemaVersion: 2, config: { mediaType: '', digest, size: config.length }, layers: [] }))
  const index = (architecture: string): string =>
    JSON.stringify({
      schemaVersion: 2,
      manifests: [{ mediaType: '', digest: digestOf(child), size: child.length, platform: { os: 'linux', architecture } }],
    })
  const put = (reference: string, body: string | Uint8Array<ArrayBuffer>): Promise<Response> =>
    send(running, 'PUT', `/v2/app/manifests/${reference}`, { body })
  assert.equal((await put(digestOf(child), new Uint8Array(child))).status, 201)
  assert.equal((await put('good', index('amd64'))).status, 201)
  assert.equal((await put('foreign', index('arm64'))).status, 201)
  const [, good, foreign] = running.pushed
  assert.deepEqual([good?.name, good?.digest], ['app:good', digestOf(child)])
  await assert.rejects(async () => foreign?.writeLayout('/nowhere'), /without a manifest for linux\/amd64/)
  assert.match((await send(running, 'GET', '/v2/app/manifests/good')).headers.get('content-type') ?? '', /image\.index/)
})

test('a restart keeps what was pushed and drops what was being uploaded; a removed image takes its blobs along', async () => {
  await using running = await start()
  const digest = await pushBlob(running, 'app', config)
  const manifest = JSON.stringify({ schemaVersion: 2, config: { mediaType: '', digest, size: config.length }, layers: [] })
  await send(running, 'PUT', '/v2/app/manifests/latest', { body: manifest })
  await send(running, 'POST', '/v2/app/blobs/uploads/')
  await running.registry.close()
  await sweep(running.layout)

  running.known.delete('app:latest')
  const options = { layout: running.layout, log: pino({ level: 'silent' }), platform: 'linux/amd64' }
  const handedOn: string[] = []
  let removed = false
  const images: PushTarget = {
    get: (name) => {
      if (removed || !handedOn.includes(name)) throw new HypemanError('not_found', name)
      return { name, digest: '', platform: '', status: 'pending', createdAt: '', tags: {} }
    },
    forget: () => Promise.resolve(),
    onRemoved: () => undefined,
    async registerPushed(image) {
      handedOn.push(image.name)
      return { name: image.name, digest: image.digest, platform: '', status: 'pending', createdAt: '', tags: {} }
    },
  }
  const again = await createRegistry({ ...options, images })
  assert.deepEqual(handedOn, ['app:latest'], 'its conversion begins anew')
  assert.equal((await again.manifest('app', 'latest')).mediaType, 'application/vnd.oci.image.manifest.v1+json')
  removed = true
  await again.collectUnused()
  await assert.rejects(again.manifest('app', 'latest'), { code: 'MANIFEST_UNKNOWN' })
  assert.equal(
    (await again.manifest('app', digestOf(Buffer.from(manifest)))).sizeBytes,
    manifest.length,
    'young blobs are left to a push under way',
  )
})
