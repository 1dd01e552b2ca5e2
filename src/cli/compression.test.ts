// How memory is compressed, from the command line: what `run` and `standby` ask of the server.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fakeInstance, startFakeServer, type FakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

function sent(server: FakeServer, route: string): Readonly<Record<string, unknown>> {
  return server.requests.findLast((request) => `${request.method} ${request.path}` === route)?.body as Readonly<Record<string, unknown>>
}

test('standby asks for what the options say, and for nothing without them', async () => {
  await using server = await startFakeServer()
  server.on('POST /instances/web/standby', { json: fakeInstance('web', { state: 'Standby' }) })
  for (const [options, body] of [
    [[], {}],
    [
      ['--compress', 'zstd:3', '--compress-delay', '5m'],
      { compression: { enabled: true, algorithm: 'zstd', level: 3 }, compression_delay: '5m' },
    ],
    [['--compress', 'none'], { compression: { enabled: false } }],
  ] as const) {
    const { code, stderr } = await hypeman(server.url, ['standby', 'web', ...options])
    assert.equal(code, 0, stderr)
    assert.deepEqual(sent(server, 'POST /instances/web/standby'), body)
  }
  assert.equal((await hypeman(server.url, ['standby', 'web', '--compress', 'gzip'])).code, 2)
})

test('run makes a policy of them', async () => {
  await using server = await startFakeServer()
  server.on('GET /images/alpine:3.20', {
    json: { name: 'docker.io/library/alpine:3.20', digest: 'sha256:00', status: 'ready', created_at: '2026-01-01T00:00:00Z' },
  })
  server.on('POST /instances', { status: 201, json: fakeInstance('web') })
  const words = ['run', '-d', '--name', 'web', '--compress', 'lz4', '--compress-delay', '1h', 'alpine:3.20']
  const { code, stderr } = await hypeman(server.url, words)
  assert.equal(code, 0, stderr)
  assert.deepEqual(sent(server, 'POST /instances')['snapshot_policy'], {
    compression: { enabled: true, algorithm: 'lz4' },
    standby_compression_delay: '1h',
  })
})
