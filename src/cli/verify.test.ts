// hypeman snapshot verify: a line for each file, what is damaged in the exit code, values for programs.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startFakeServer, type FakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

const good = { name: 'guest/memory-1.base', status: 'ok', size_bytes: 2048, read_bytes: 1024 }
const bad = { name: 'guest/device.state', status: 'bad', message: 'has other contents than when it was saved', read_bytes: 10 }
const unhashed = { name: 'guest/disk-1.qcow2', status: 'not_hashed', message: 'its digest was taken just now', read_bytes: 20 }
const result = (id: string, status: string, files: readonly unknown[]) => ({ snapshot_id: id, status, ms: 3, read_bytes: 1024, files })

async function* events(...results: readonly object[]): AsyncGenerator {
  yield { type: 'progress', snapshot_id: 'one', file: 'guest/memory-1.base', done_bytes: 512, total_bytes: 1024 }
  for (const one of results) yield { type: 'result', ...one }
}

async function fakeServer(): Promise<FakeServer> {
  const server = await startFakeServer()
  server.on('GET /snapshots', ({ query }) => ({ json: query.get('name') === 'base' ? [{ id: 'one', source_instance_name: 'web' }] : [] }))
  server.on('POST /snapshots/one/verify', () => ({ events: events(result('one', 'ok', [good])) }))
  server.on('POST /snapshots/two/verify', () => ({ events: events(result('two', 'bad', [good, bad])) }))
  server.on('POST /snapshots/verify', () => ({ events: events(result('one', 'incomplete', [unhashed]), result('two', 'bad', [bad])) }))
  return server
}

test('whole snapshots by name or id: a line for each file, exit code 0', async () => {
  await using server = await fakeServer()
  const { code, stdout } = await hypeman(server.url, ['snapshot', 'verify', 'base'])
  assert.equal(code, 0)
  assert.deepEqual(
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.split(/ {3,}/)),
    [
      ['SNAPSHOT ID', 'FILE', 'STATUS', 'READ', 'WHAT'],
      ['one', 'guest/memory-1.base', 'ok', '1.0 KB'],
    ],
  )
})

test('a damaged snapshot ends with 1 and says what is wrong; one that is not there keeps none of the others from being verified', async () => {
  await using server = await fakeServer()
  const damaged = await hypeman(server.url, ['snapshot', 'verify', 'two'])
  assert.equal(damaged.code, 1)
  assert.match(damaged.stdout, /two +guest\/device\.state +bad +10 B +has other contents/)
  assert.match(damaged.stderr, /1 of 1 snapshots is damaged/)
  const some = await hypeman(server.url, ['snapshot', 'verify', 'none', 'base'])
  assert.equal(some.code, 1)
  assert.match(some.stdout, /^one /m)
  assert.match(some.stderr, /none/)
})

test('--all takes all, in every format for programs', async () => {
  await using server = await fakeServer()
  const expected = [result('one', 'incomplete', [unhashed]), result('two', 'bad', [bad])]
  for (const format of ['json', 'raw']) {
    const { code, stdout } = await hypeman(server.url, ['snapshot', 'verify', '--all', '--format', format])
    assert.deepEqual([code, JSON.parse(stdout)], [1, expected])
  }
  const { stdout, stderr } = await hypeman(server.url, ['snapshot', 'verify', '--all'])
  assert.match(stdout, /guest\/disk-1\.qcow2 +not hashed/)
  assert.match(stderr, /verify again to compare/)
})

test('either snapshots or --all', async () => {
  await using server = await fakeServer()
  for (const words of [[], ['base', '--all']]) assert.equal((await hypeman(server.url, ['snapshot', 'verify', ...words])).code, 2)
  assert.deepEqual(server.requests, [])
})
