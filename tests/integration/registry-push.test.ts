// Images pushed into the server's own registry by a real tool: they become images here, and can be pulled back as they were.

import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { fastify } from 'fastify'
import { pino } from 'pino'
import { isHypemanError } from '../../src/api/errors.ts'
import { signToken } from '../../src/platform/token.ts'
import { createRegistry } from '../../src/registry/index.ts'
import type { RegistryService } from '../../src/registry/types.ts'
import { createAuthenticator } from '../../src/server/auth.ts'
import { registryRoutes } from '../../src/server/registry.ts'
import { dockerImage, pushUnlessThere } from '../support/checking-push.ts'
import { run } from '../support/command.ts'
import { assertOnDisk, startImages, type TestImages } from '../support/images.ts'
import { buildIndex } from '../support/oci.ts'

const secret = 'a secret of the tests'
const token = signToken(secret, { subject: 'ada', ttlSeconds: 600 })
const limit = (): AbortSignal => AbortSignal.timeout(60_000)

interface Running extends AsyncDisposable {
  readonly host: string
  readonly registry: RegistryService
  skopeo(...args: readonly string[]): Promise<string>
}

async function serve(service: TestImages): Promise<Running> {
  const registry = await createRegistry({
    layout: service.layout,
    log: pino({ level: 'silent' }),
    images: service.images,
    platform: 'linux/amd64',
  })
  const app = fastify({ forceCloseConnections: true })
  await app.register(registryRoutes({ registry, authenticator: createAuthenticator([secret]) }))
  const host = new URL(await app.listen({ host: '127.0.0.1', port: 0 })).host
  return {
    host,
    registry,
    async skopeo(...args) {
      const { code, stdout, stderr } = await run('skopeo', args)
      assert.equal(code, 0, stderr)
      return stdout
    },
    async [Symbol.asyncDispose]() {
      await app.close()
      await registry.close()
    },
  }
}

for (const format of ['oci', 'v2s2'] as const)
  test(`a ${format} image is pushed, made ready under its names, pulled back unchanged, and removed with its blobs`, async () => {
    await using service = await startImages()
    await using server = await serve(service)
    const built = await service.build({ layers: [[{ path: 'file', content: 'x'.repeat(50_000) }]], config: { Cmd: ['/x'] } })
    const address = `docker://${server.host}/team/app:1`
    await server.skopeo(
      ...['copy', '--quiet', '--format', format, '--dest-tls-verify=false', '--dest-creds', `ada:${token}`],
      ...[`oci:${built.layout}:image`, address],
    )
    const ready = await service.images.waitReady('team/app:1', limit())
    assert.equal(ready.name, 'docker.io/team/app:1')
    assert.deepEqual(ready.config.cmd, ['/x'])
    if (format === 'oci') assert.equal(ready.digest, built.digest)
    assert.equal(service.images.get(`${server.host}/team/app:1`).digest, ready.digest)
    assert.equal((await service.images.pull({ name: `${server.host}/team/app:1` })).status, 'ready')
    assert.deepEqual(
      service.images.list().map(({ name }) => name),
      ['docker.io/team/app:1'],
    )

    const back = path.join(await service.directory(), 'back')
    await server.skopeo('copy', '--quiet', '--src-tls-verify=false', '--src-creds', `ada:${token}`, address, `dir:${back}`)
    const manifest = await server.skopeo('manifest-digest', path.join(back, 'manifest.json'))
    assert.equal(manifest.trim(), ready.digest)
    assert.match(await readFile(path.join(back, 'manifest.json'), 'utf8'), format === 'oci' ? /oci\.image/ : /docker/)

    await service.images.remove('team/app:1')
    await server.registry.collectUnused()
    assert.deepEqual(server.registry.tags('team/app'), [])
    await assertOnDisk(service.layout, [])
  })

test('a push for two platforms becomes the image of this one, and wrong credentials push nothing', async () => {
  await using service = await startImages()
  await using server = await serve(service)
  const layout = path.join(await service.directory(), 'oci')
  const [, amd] = await buildIndex(layout, [
    { layers: [[{ path: 'arm', content: '1' }]], architecture: 'arm64' },
    { layers: [[{ path: 'amd', content: '2' }]] },
  ])
  const copy = ['copy', '--quiet', '--all', '--dest-tls-verify=false']
  const refused = await run('skopeo', [...copy, '--dest-creds', 'ada:wrong', `oci:${layout}:image`, `docker://${server.host}/both:1`])
  assert.match(refused.stderr, /unauthorized|authentication required/i)
  assert.deepEqual(await readdir(path.join(service.layout.registry, 'blobs')), [])
  await server.skopeo(...copy, '--dest-creds', `ada:${token}`, `oci:${layout}:image`, `docker://${server.host}/both:1`)
  const ready = await service.images.waitReady('both:1', limit())
  assert.equal(ready.digest, amd?.digest)
  assert.deepEqual(
    service.images.list().map(({ name }) => name),
    ['docker.io/library/both:1'],
  )
})

test('an image that was pushed in part when the server stopped is made after the next start', async () => {
  await using service = await startImages({
    faults: {
      before: (id) => {
        if (id === 'image.convert/unpack' && !restarted) throw new Error('the server stops here')
      },
      after: () => undefined,
    },
  })
  let restarted = false
  const built = await service.build({ layers: [[{ path: 'file', content: 'x' }]] })
  {
    await using server = await serve(service)
    await server.skopeo(
      ...['copy', '--quiet', '--dest-tls-verify=false', '--dest-creds', `ada:${token}`, `oci:${built.layout}:image`],
      `docker://${server.host}/app:1`,
    )
    await assert.rejects(service.images.waitReady('app:1', limit()), (error) => isHypemanError(error, 'internal_error'))
  }
  restarted = true
  await service.restart()
  await using _server = await serve(service)
  assert.equal((await service.images.waitReady('app:1', limit())).digest, built.digest)
})

test('an image that failed, or was removed, is pushed again by a client that sends nothing which the registry has', async () => {
  let breaks = true
  await using service = await startImages({
    faults: {
      before: (id) => {
        if (id === 'image.convert/unpack' && breaks) throw new Error('no room on the disk')
      },
      after: () => undefined,
    },
  })
  await using server = await serve(service)
  const image = dockerImage([{ path: 'file', content: 'x' }], { Cmd: ['/x'] })
  const push = (): Promise<readonly string[]> =>
    pushUnlessThere({ url: `http://${server.host}`, token }, { repository: 'again', tag: '1' }, image, 'at once')
  assert.equal((await push()).length, 3, 'two blobs and the manifest')
  await assert.rejects(service.images.waitReady('again:1', limit()), (error) => isHypemanError(error, 'internal_error'))

  breaks = false
  assert.deepEqual(await push(), ['manifest'])
  assert.deepEqual((await service.images.waitReady('again:1', limit())).config.cmd, ['/x'])
  assert.deepEqual(await push(), [], 'it is there')

  await service.images.remove('again:1')
  assert.equal((await push()).at(-1), 'manifest')
  assert.equal((await service.images.waitReady('again:1', limit())).name, 'docker.io/library/again:1')
})
