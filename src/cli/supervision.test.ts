// Restart policies and health checks as they are typed, and what is asked of the server for them.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fakeInstance, startFakeServer, type FakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'
import { restart } from './supervision.ts'

test('a restart policy is typed as in docker, or as on the wire', () => {
  assert.deepEqual(restart('on-failure'), { policy: 'on_failure' })
  assert.deepEqual(restart('on_failure:5'), { policy: 'on_failure', max_attempts: 5 })
  assert.deepEqual(restart('always'), { policy: 'always' })
  assert.deepEqual(restart('unless-stopped'), { policy: 'always' })
  assert.deepEqual([restart('no'), restart('never')], [{ policy: 'never' }, { policy: 'never' }])
  for (const wrong of ['', 'sometimes', 'always:3', 'on-failure:', 'on-failure:x', 'on-failure:1:2', 'on-failure:-1'])
    assert.throws(() => restart(wrong), wrong)
})

test('run sends the policy and the check that its options describe', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  const health = ['--health-http-port', '80', '--health-http-path', '/up', '--health-interval', '5s', '--health-failure-threshold', '2']
  const { code, stderr } = await hypeman(server.url, [
    ...['run', '-d', '--name', 'web', '--restart', 'on-failure:5', '--restart-backoff', '1s'],
    ...health,
    'alpine:3.20',
  ])
  assert.equal(code, 0, stderr)
  const body = sent(server, 'POST /instances')
  assert.deepEqual(body['restart_policy'], { policy: 'on_failure', max_attempts: 5, backoff: '1s' })
  assert.deepEqual(body['health_check'], { http: { port: 80, path: '/up' }, interval: '5s', failure_threshold: 2 })
})

test('without such options nothing of them is sent', async () => {
  await using server = await startFakeServer()
  readyToRun(server)
  assert.equal((await hypeman(server.url, ['run', '-d', '--name', 'web', 'alpine:3.20'])).code, 0)
  const body = sent(server, 'POST /instances')
  assert.deepEqual([body['restart_policy'], body['health_check']], [undefined, undefined])
})

test('ps tells the health of what runs, where it is checked', async () => {
  await using server = await startFakeServer()
  const health = (status: string): object => ({ health_status: { status, consecutive_successes: 0, consecutive_failures: 3 } })
  server.on('GET /instances', {
    json: [
      fakeInstance('sick', { state: 'Running', ...health('unhealthy') }),
      fakeInstance('well', { state: 'Running', ...health('healthy') }),
      fakeInstance('plain', { state: 'Running', ...health('disabled') }),
    ],
  })
  const { stdout } = await hypeman(server.url, ['ps'])
  assert.deepEqual(
    ['sick', 'well', 'plain'].map((name) => /Running(?: \(\w+\))?/.exec(stdout.split('\n').find((line) => line.includes(name)) ?? '')?.[0]),
    ['Running (unhealthy)', 'Running (healthy)', 'Running'],
  )
})

test('--restart and --rm contradict each other', async () => {
  await using server = await startFakeServer()
  const { code, stderr } = await hypeman(server.url, ['run', '--rm', '--restart', 'always', 'alpine:3.20'])
  assert.equal(code, 2)
  assert.match(stderr, /--restart does not go with --rm/)
})

test('update restart-policy, health-check and env send what was given, and want something', async () => {
  await using server = await startFakeServer()
  server.on('PATCH /instances/web', { json: fakeInstance('web') })
  await hypeman(server.url, ['update', 'restart-policy', 'web', '--policy', 'always', '--max-attempts', '0', '--stable-after', '1m'])
  assert.deepEqual(sent(server, 'PATCH /instances/web'), { restart_policy: { policy: 'always', max_attempts: 0, stable_after: '1m' } })
  await hypeman(server.url, ['update', 'health-check', 'web', '--exec', 'pg_isready', '--exec', '-q', '--timeout', '1s'])
  assert.deepEqual(sent(server, 'PATCH /instances/web'), { health_check: { exec: { command: ['pg_isready', '-q'] }, timeout: '1s' } })
  await hypeman(server.url, ['update', 'health-check', 'web', '--type', 'none'])
  assert.deepEqual(sent(server, 'PATCH /instances/web'), { health_check: { type: 'none' } })
  await hypeman(server.url, ['update', 'env', 'web', '-e', 'A=1=2', '-e', 'HERE', '-e', 'ABSENT'], { env: { HERE: 'x' } })
  assert.deepEqual(sent(server, 'PATCH /instances/web'), { env: { A: '1=2', HERE: 'x' } })
  assert.equal((await hypeman(server.url, ['update', 'env', 'web', '-e', 'ABSENT'])).code, 2)
  await hypeman(server.url, ['update', 'env', 'web', '--no-inherit-secrets'])
  assert.deepEqual(sent(server, 'PATCH /instances/web'), { inherit_secrets: false })
  assert.equal((await hypeman(server.url, ['update', 'restart-policy', 'web', '--backoff', '1s'])).code, 2)
  assert.equal((await hypeman(server.url, ['update', 'health-check', 'web'])).code, 2)
})

function readyToRun(server: FakeServer): void {
  server.on('GET /images/alpine:3.20', {
    json: { name: 'docker.io/library/alpine:3.20', digest: 'sha256:00', status: 'ready', created_at: '2026-01-01T00:00:00Z' },
  })
  server.on('POST /instances', { status: 201, json: fakeInstance('web') })
}

function sent(server: FakeServer, route: string): Readonly<Record<string, unknown>> {
  const body = server.requests.findLast((request) => `${request.method} ${request.path}` === route)?.body
  return body as Readonly<Record<string, unknown>>
}
