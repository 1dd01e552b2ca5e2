// Pushes with a bearer token of a registry's, which is told to nobody but that registry. Boots nothing.

import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { endedPush, layer, pulledImage } from '../support/pushes.ts'
import { startRegistryProxy } from '../support/registry-proxy.ts'
import { startRegistry, type TestRegistry } from '../support/registry.ts'
import { startServer, type TestServer } from '../support/server.ts'

let [server, source, home] = [] as unknown as [TestServer, TestRegistry, string]

before(async () => {
  home = await mkdtemp(path.join(os.tmpdir(), 'push-tokens-'))
  ;[server, source] = await Promise.all([startServer(), startRegistry()])
})
after(async () => {
  await Promise.all([server[Symbol.asyncDispose](), source[Symbol.asyncDispose]()])
  await rm(home, { recursive: true })
})

test('a registry token opens a registry for a push', async () => {
  await using proxy = await startRegistryProxy(source.host, { token: 'let me in' })
  const { name } = await pulledImage({ server, source, home }, 'token:1', [layer('token', 300_000)])
  const to = `${proxy.host}/by-token:2`
  const refused = await endedPush(
    server,
    await server.client.pushes.create({ image: name, target: to, credentials: { registry_token: 'no' } }),
  )
  assert.match(refused.error ?? '', /^credentials: /)
  const done = await endedPush(
    server,
    await server.client.pushes.create({ image: name, target: to, credentials: { registry_token: 'let me in' } }),
  )
  assert.deepEqual([done.status, done.error ?? null], ['pushed', null])
  assert.ok(proxy.sent.some((bytes) => bytes > 300_000))
})

test('a registry that takes uploads elsewhere than below /v2/ gets them with the token, too', async () => {
  await using proxy = await startRegistryProxy(source.host, { token: 'let me in', uploadsElsewhere: true })
  const { name } = await pulledImage({ server, source, home }, 'elsewhere:1', [layer('elsewhere', 300_000)])
  const to = `${proxy.host}/uploaded-elsewhere:2`
  const done = await endedPush(
    server,
    await server.client.pushes.create({ image: name, target: to, credentials: { registry_token: 'let me in' } }),
  )
  assert.deepEqual([done.status, done.error ?? null], ['pushed', null])
  assert.deepEqual(
    proxy.asked.filter((asked) => /^(?:PUT|PATCH) .*uploads/.test(asked) && !asked.includes(' /uploads-elsewhere/v2/')),
    [],
  )
  assert.ok(
    proxy.asked.some((asked) => asked.includes(' /uploads-elsewhere/v2/')),
    proxy.asked.join('\n'),
  )
})
