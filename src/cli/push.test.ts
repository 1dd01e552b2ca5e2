// hypeman push: what is asked of the server, what is shown while it waits, and what an interrupt leaves.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startFakeServer } from '../../tests/support/fake-server.ts'
import { hypeman, startHypeman } from '../../tests/support/fake-terminal.ts'
import { until } from '../../tests/support/until.ts'

const digest = `sha256:${'0'.repeat(64)}`
const id = 'k3v9x2m7q1w8e5r4t6y0u2i4'
const push = (status: string, more: object = {}): object => ({
  id,
  status,
  image: 'docker.io/my/app:1',
  target: 'registry.example.com/app:1',
  digest,
  created_at: '2026-01-01T00:00:00Z',
  ...more,
})

test('push asks for what the flags say, waits until the target has the image, and prints what it has', async () => {
  await using server = await startFakeServer()
  const states = [push('queued', { queue_position: 3 }), push('pushing'), push('pushed', { layers: 2, bytes: 5 })]
  server.on('POST /pushes', { status: 202, json: states[0] })
  server.on(`GET /pushes/${id}`, () => ({ json: states.length > 1 ? states.shift() : states[0] }))
  const flags = ['--insecure', '--username', 'me', '--password-stdin']
  const { code, stdout } = await hypeman(server.url, ['push', ...flags, 'my/app:1', 'registry.example.com/app:1'], { input: 'secret\n' })
  assert.deepEqual([code, stdout], [0, `registry.example.com/app:1@${digest}\n`])
  assert.deepEqual(server.requests.find(({ method }) => method === 'POST')?.body, {
    image: 'my/app:1',
    target: 'registry.example.com/app:1',
    insecure: true,
    credentials: { username: 'me', password: 'secret' },
  })
})

test('without a target it is the name of the image, and -d prints the id at once', async () => {
  await using server = await startFakeServer()
  server.on('POST /pushes', { status: 202, json: push('queued') })
  const { code, stdout } = await hypeman(server.url, ['push', '-d', 'registry.example.com/app:1'])
  assert.deepEqual([code, stdout], [0, `${id}\n`])
  const [request] = server.requests
  assert.partialDeepStrictEqual(request?.body, { image: 'registry.example.com/app:1', target: 'registry.example.com/app:1' })
})

test('a push that fails says why', async () => {
  await using server = await startFakeServer()
  server.on('POST /pushes', { status: 202, json: push('queued') })
  server.on(`GET /pushes/${id}`, { json: push('failed', { error: 'the registry refuses it; ask its owner' }) })
  const { code, stderr } = await hypeman(server.url, ['push', 'my/app:1', 'registry.example.com/app:1'])
  assert.equal(code, 1)
  assert.match(stderr, /my\/app:1 could not be pushed: the registry refuses it; ask its owner/)
})

test('an interrupt leaves the push to the server, and says how to go on watching', async () => {
  await using server = await startFakeServer()
  server.on('POST /pushes', { status: 202, json: push('queued') })
  server.on(`GET /pushes/${id}`, { json: push('pushing') })
  const running = startHypeman(server.url, ['push', 'my/app:1', 'registry.example.com/app:1'])
  await until('it is asked how far it is', () => server.requests.some(({ path }) => path === `/pushes/${id}`))
  running.interrupt()
  const { code, stderr } = await running.ended
  assert.equal(code, 130)
  assert.match(stderr, new RegExp(`The push goes on: hypeman push get ${id}`))
})

test('push list and push get show pushes; list and get are no images', async () => {
  await using server = await startFakeServer()
  server.on('GET /pushes', { json: [push('failed', { error: 'no' }), push('pushed', { bytes: 2048 })] })
  server.on(`GET /pushes/${id}`, { json: push('pushed') })
  const { stdout } = await hypeman(server.url, ['push', 'list'])
  assert.match(stdout, /PUSH ID +IMAGE +TARGET +STATUS/)
  assert.match(stdout, /my\/app:1 +registry\.example\.com\/app:1 +failed: no/)
  assert.equal((await hypeman(server.url, ['push', 'ls', '-q'])).stdout, `${id}\n${id}\n`)
  assert.deepEqual(JSON.parse((await hypeman(server.url, ['push', 'get', id])).stdout), push('pushed'))
})
