// hypeman snapshot schedule: what is asked of the server, and what is printed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startFakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

const path = '/instances/web/snapshot-schedule'
const schedule = {
  instance_id: 'id-of-web',
  interval: '24h0m0s',
  retention: { max_count: 7 },
  created_at: '2026-01-01T00:00:00Z',
  updated_at: '2026-01-01T00:00:00Z',
  next_run_at: '2026-01-02T00:00:00Z',
}

test('set asks for what the flags say and tells the next run', async () => {
  await using server = await startFakeServer()
  server.on(`PUT ${path}`, { json: schedule })
  const limits = ['--interval', '24h', '--max-count', '7', '--max-age', '168h']
  const words = ['snapshot', 'schedule', 'set', 'web', ...limits, '--name-prefix', 'nightly', '--metadata', 'team=a', '-l', 'x=y']
  const { code, stdout } = await hypeman(server.url, words)
  assert.equal(code, 0)
  assert.match(stdout, /^web is snapshotted every 24h0m0s, next .* \(2026-01-02T00:00:00Z\)\n$/)
  assert.deepEqual(server.requests[0]?.body, {
    interval: '24h',
    retention: { max_count: 7, max_age: '168h' },
    name_prefix: 'nightly',
    metadata: { team: 'a', x: 'y' },
  })
})

test('set without an interval or a limit is used wrongly, and asks for nothing', async () => {
  await using server = await startFakeServer()
  for (const [words, reason] of [
    [['--interval', '24h'], /give --max-count or --max-age, or both/],
    [['--max-count', '7'], /--interval/],
    [['--interval', '24h', '--max-count', 'many'], /whole number/],
  ] as const) {
    const { code, stderr } = await hypeman(server.url, ['snapshot', 'schedule', 'set', 'web', ...words])
    assert.equal(code, 2)
    assert.match(stderr, reason)
  }
  assert.deepEqual(server.requests, [])
})

test('get shows all of it, in the format that was asked for', async () => {
  await using server = await startFakeServer()
  server.on(`GET ${path}`, { json: schedule })
  const shown = await hypeman(server.url, ['snapshot', 'schedule', 'get', 'web'])
  assert.deepEqual([shown.code, JSON.parse(shown.stdout)], [0, schedule])
  assert.match((await hypeman(server.url, ['snapshot', 'schedule', 'get', 'web', '--format', 'table'])).stdout, /next_run_at +2026-01-02/)
})

test('delete, also as rm, ends it and prints the instance; an instance without one is told', async () => {
  await using server = await startFakeServer()
  server.on(`DELETE ${path}`, { status: 204 })
  for (const verb of ['delete', 'rm']) {
    const { code, stdout } = await hypeman(server.url, ['snapshot', 'schedule', verb, 'web'])
    assert.deepEqual([code, stdout], [0, 'web\n'])
  }
  server.on(`DELETE ${path}`, { status: 404, json: { code: 'not_found', message: 'web has no snapshot schedule' } })
  const { code, stderr } = await hypeman(server.url, ['snapshot', 'schedule', 'delete', 'web'])
  assert.equal(code, 1)
  assert.match(stderr, /web has no snapshot schedule/)
})
