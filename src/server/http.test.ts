import assert from 'node:assert/strict'
import { test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { instanceView } from '../../tests/support/fake-services.ts'
import { serveFakes, tokenWith, until } from '../../tests/support/http-server.ts'
import { HypemanError } from '../api/errors.ts'

test('health and the description of the API need no token, everything else does', async () => {
  await using server = await serveFakes()
  for (const path of ['/health', '/spec.json', '/openapi.json', '/spec.yaml'])
    assert.equal((await fetch(`${server.url}${path}`)).status, 200, path)
  const refused = await fetch(`${server.url}/instances`)
  assert.equal(refused.status, 401)
  assert.equal(refused.headers.get('www-authenticate'), 'Bearer')
  assert.deepEqual(await refused.json(), { code: 'unauthorized', message: 'authorization header required' })
})

test('each route asks for its scope, and the refusal names it', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  const asReader = (path: string, method = 'GET'): Promise<Response> =>
    fetch(`${server.url}${path}`, { method, headers: { authorization: `Bearer ${tokenWith(['instance:read'])}` } })
  assert.equal((await asReader('/instances/web')).status, 200)
  for (const [method, path, scope] of [
    ['DELETE', '/instances/web', 'instance:delete'],
    ['POST', '/instances/web/stop', 'instance:write'],
    ['GET', '/instances/web/exec', 'instance:write'],
    ['GET', '/images', 'image:read'],
    ['POST', '/snapshots/s/fork', 'snapshot:write'],
    ['GET', '/instances/web/snapshot-schedule', 'snapshot:read'],
    ['PUT', '/instances/web/snapshot-schedule', 'snapshot:write'],
    ['DELETE', '/instances/web/snapshot-schedule', 'snapshot:delete'],
    ['GET', '/capabilities', 'resource:read'],
    ['DELETE', '/builds/b', 'build:delete'],
  ] as const) {
    const answer = await asReader(path, method)
    assert.equal(answer.status, 403, path)
    assert.deepEqual(await answer.json(), { code: 'forbidden', message: `missing required scope: ${scope}` })
  }
  assert.ok(server.services.instancesById.has('web'))
})

test('the official client drives the life of an instance', async () => {
  await using server = await serveFakes()
  const { instances } = server.client
  const created = await instances.create({ name: 'web', image: 'alpine', env: { A: '1' } })
  assert.equal(created.state, 'Initializing')
  assert.deepEqual(await instances.list({ tags: { team: 'back end', env: 'dev' }, state: 'Running' }), [created])
  const listed = server.services.calls.find(([operation]) => operation === 'list')
  assert.deepEqual(JSON.parse(JSON.stringify(listed?.[1])), { state: 'Running', tags: { team: 'back end', env: 'dev' } })
  assert.equal((await instances.get('web')).id, created.id)
  assert.equal((await instances.stop('web')).state, 'Stopped')
  assert.equal((await instances.start('web', {})).state, 'Initializing')
  assert.equal((await instances.standby('web')).state, 'Standby')
  assert.equal((await instances.restore('web')).state, 'Running')
  assert.equal((await instances.update('web', { ttl: '30m' })).name, 'web')
  assert.equal((await instances.fork('web', { name: 'copy', from_running: true })).name, 'copy')
  assert.deepEqual(await instances.wait('web', { state: 'Running' }), { state: 'Running', timed_out: false })
  assert.deepEqual(await instances.stat('web', { path: '/nowhere', follow_links: true }), { exists: false })
  assert.equal((await instances.stats('web')).cpu_seconds, 0.5)
  await instances.delete('web', { graceful_shutdown: true })
  assert.deepEqual(server.services.calls.at(-1), ['remove', 'web', { gracefulShutdown: true }])
  const creation = server.services.calls.find(([operation]) => operation === 'create')?.[1]
  assert.partialDeepStrictEqual(creation, { size: '1GB', overlay_size: '10GB', vcpus: 2, env: { A: '1' }, volumes: [] })
})

test('the official client drives snapshots, images and volumes', async () => {
  await using server = await serveFakes()
  const { client } = server
  server.services.instancesById.set('web', instanceView('web', 'Stopped'))
  const snapshot = await client.instances.snapshots.create('web', { kind: 'Standby', name: 'first' })
  assert.equal(snapshot.size_bytes, 1024)
  assert.deepEqual(await client.snapshots.list({ kind: 'Standby', source_instance_id: 'x' }), [snapshot])
  assert.equal((await client.snapshots.get(snapshot.id)).id, snapshot.id)
  assert.equal((await client.instances.snapshots.restore(snapshot.id, { id: 'web' })).state, 'Running')
  assert.equal((await client.snapshots.fork(snapshot.id, { name: 'copy', target_state: 'Running' })).name, 'copy')
  await client.snapshots.delete(snapshot.id)

  const name = 'docker.io/library/alpine:latest'
  assert.equal((await client.images.create({ name, credentials: {} })).status, 'pulling')
  assert.deepEqual(server.services.calls.at(-1), ['pull', { name, credentials: undefined }])
  assert.equal((await client.images.get(name)).name, name)
  assert.equal((await client.images.tag(name, { target: 'example.com/mine:1' })).name, 'example.com/mine:1')
  assert.equal((await client.images.list({ tags: { a: 'b' } })).length, 2)
  await client.images.delete(name)

  const volume = await client.volumes.create({ name: 'data', size_gb: 1 })
  assert.deepEqual(await client.volumes.list(), [volume])
  assert.equal((await client.volumes.get(volume.id)).name, 'data')
  await client.volumes.delete(volume.id)
  const filled = await client.volumes.createFromArchive(Buffer.alloc(100_000), { name: 'full', size_gb: 2, tags: { a: 'b' } })
  assert.equal(filled.size_gb, 2)
  const [operation, body, bytes] = server.services.calls.find(([called]) => called === 'fill volume') ?? []
  assert.deepEqual(
    [operation, JSON.parse(JSON.stringify(body)), bytes],
    ['fill volume', { name: 'full', size_gb: 2, tags: { a: 'b' } }, 100_000],
  )
  assert.equal((await client.health.check()).status, 'ok')
  assert.equal((await client.capabilities.get()).default_runtime.name, 'qemu')
})

test('an image is found by every spelling of its reference', async () => {
  await using server = await serveFakes()
  const name = 'docker.io/library/nginx:latest'
  await server.client.images.create({ name })
  for (const spelling of [
    'docker.io/library/nginx:latest',
    'docker.io%2Flibrary%2Fnginx:latest',
    'docker.io%252Flibrary%252Fnginx%253Alatest',
  ]) {
    assert.equal((await server.fetch(`/images/${spelling}`)).status, 200, spelling)
    const body = JSON.stringify({ target: 'b' })
    const headers = { 'content-type': 'application/json' }
    assert.equal((await server.fetch(`/images/${spelling}/tag`, { method: 'POST', body, headers })).status, 201, spelling)
  }
  const broken = await server.fetch('/images/%zz')
  assert.deepEqual([broken.status, ((await broken.json()) as { code: string }).code], [400, 'invalid_request'])
})

test('an archive of an image is streamed in', async () => {
  await using server = await serveFakes()
  const send = (path: string, body: ReadableStream<Uint8Array>, type: string): Promise<Response> =>
    fetch(`${server.url}${path}`, {
      ...{ method: 'POST', body, duplex: 'half' },
      headers: { 'content-type': type, authorization: `Bearer ${server.token}` },
    } as RequestInit)
  for (const type of ['application/x-tar', 'application/octet-stream', 'application/gzip']) {
    const chunks = new ReadableStream<Uint8Array>({
      start(controller) {
        for (let n = 0; n < 64; n += 1) controller.enqueue(new Uint8Array(128 * 1024))
        controller.close()
      },
    })
    const answer = await send('/images/import?name=a%2Fb:1&tags[x]=y', chunks, type)
    assert.equal(answer.status, 202)
    const [operation, name, bytes, tags] = server.services.calls.at(-1) ?? []
    assert.deepEqual([operation, name, bytes, { ...(tags as object) }], ['import', 'a/b:1', 8 * 1024 ** 2, { x: 'y' }])
  }
  const empty = await server.fetch('/images/import?name=a', { method: 'POST' })
  assert.deepEqual([empty.status, ((await empty.json()) as { code: string }).code], [400, 'invalid_archive'])
})

test('bodies may be absent, empty, or announced and not there', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Stopped'))
  for (const operation of ['start', 'standby', 'stop', 'restore']) {
    const path = `/instances/web/${operation}`
    assert.equal((await server.fetch(path, { method: 'POST' })).status, 200, operation)
    const announced = { 'content-type': 'application/json' }
    assert.equal((await server.fetch(path, { method: 'POST', headers: announced })).status, 200, operation)
    assert.equal((await server.fetch(path, { method: 'POST', headers: announced, body: '{}' })).status, 200, operation)
  }
})

test('what this server has not yet is refused by the name of the field, before anything happens', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  await assert.rejects(
    server.client.instances.create({
      name: 'a',
      image: 'alpine',
      gpu: { profile: 'L40S-1Q' },
      credentials: { KEY: { inject: [], source: { env: 'KEY' } } },
    }),
    (error) => error instanceof APIError && error.status === 501 && error.message.includes('credentials'),
  )
  const tooHigh = { kind: 'Standby', compression: { enabled: true, algorithm: 'lz4', level: 10 } } as const
  await assert.rejects(server.client.instances.standby('web', tooHigh), { status: 400 })
  await assert.rejects(server.client.instances.snapshots.create('web', tooHigh), { status: 400 })
  assert.equal(server.services.calls.length, 0)
  await server.client.instances.create({
    name: 'a',
    image: 'alpine',
    hotplug_size: '1GB',
    skip_kernel_headers: true,
    health_check: { http: { port: 80 } },
    restart_policy: { policy: 'always' },
  })
})

test('every request is one line in the log, with route, status, time and id, and without what was asked', async () => {
  await using server = await serveFakes()
  const answer = await server.fetch('/instances/secret-name?x=1')
  await until(() => server.log.some((entry) => entry['msg'] === 'request'))
  const line = server.log.find((entry) => entry['msg'] === 'request')
  const wanted = { method: 'GET', route: '/instances/:id', status: 404, code: 'not_found', reqId: answer.headers.get('x-request-id') }
  assert.partialDeepStrictEqual(line, wanted)
  assert.equal(typeof line?.['ms'], 'number')
  assert.ok(!JSON.stringify(server.log).includes('secret-name'))
})

test('a wait ends when its caller leaves and when the server stops, a minute is answered within a minute', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Stopped'))
  const leaving = new AbortController()
  const left = server.fetch('/instances/web/wait?state=Running', { signal: leaving.signal })
  await until(() => server.services.calls.length === 1)
  assert.deepEqual(server.services.calls.at(-1), ['wait', 'web', 'Running', 58_000])
  leaving.abort()
  await assert.rejects(left)
  await until(() => server.log.some((entry) => entry['route'] === '/instances/:id/wait' && entry['status'] === 499))
  const stopped = server.fetch('/instances/web/wait?state=Running&timeout=20m')
  await until(() => server.services.calls.length === 2)
  assert.deepEqual(server.services.calls.at(-1), ['wait', 'web', 'Running', 298_000])
  server.stop()
  const answer = await stopped
  assert.deepEqual([answer.status, ((await answer.json()) as { code: string }).code], [503, 'canceled'])
})

test('the official client sets, shows and deletes a schedule, and is told the field that is wrong', async () => {
  await using server = await serveFakes()
  const { instances } = server.client
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  await assert.rejects(instances.snapshotSchedule.get('web'), { status: 404 })
  const body = { interval: '24h', retention: { max_count: 7, max_age: '168h' }, name_prefix: null, metadata: { team: 'a' } }
  const set = await instances.snapshotSchedule.update('web', body)
  assert.deepEqual(server.services.calls.at(-1), ['set schedule', 'web', body])
  assert.deepEqual(await instances.snapshotSchedule.get('web'), set)
  await assert.rejects(
    instances.snapshotSchedule.update('web', { interval: '24h', retention: { max_age: 'a week' } }),
    (error) => error instanceof APIError && error.status === 400 && /retention\.max_age/.test(error.message),
  )
  await instances.snapshotSchedule.delete('web')
  await assert.rejects(instances.snapshotSchedule.delete('web'), { status: 404 })
})

test('operations that are not built say so: empty lists, not found, or what is missing', async () => {
  await using server = await serveFakes()
  const { client } = server
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  const lists = [client.builds, client.builders, client.devices, client.ingresses, client.pushes].map((resource) => resource.list())
  for (const list of [...lists, client.devices.listAvailable()]) assert.deepEqual(await list, [])
  await assert.rejects(client.builds.get('b'), { status: 404 })
  await assert.rejects(client.builds.create({ source: new File(['x'], 'x.tar.gz') }), { status: 501 })
  await assert.rejects(client.resources.reclaimMemory({ reclaim_bytes: 1 }), { status: 501 })
})

test('an instance is asked, and held, by its own words of standby by itself', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  const { autoStandby } = server.client.instances
  assert.partialDeepStrictEqual(await autoStandby.status('web'), { status: 'disabled', reason: 'policy_missing' })
  assert.equal((await autoStandby.hold('web')).configured, false)
  assert.deepEqual(
    server.services.calls.map(([operation]) => operation),
    ['autoStandbyStatus', 'holdAwake'],
  )
  for (const answer of [autoStandby.status('nobody'), autoStandby.hold('nobody')]) await assert.rejects(answer, { status: 404 })
  server.services.failNext = new HypemanError('instance_in_standby', 'it sleeps')
  await assert.rejects(autoStandby.hold('web'), (error) => error instanceof APIError && error.status === 409)
})
