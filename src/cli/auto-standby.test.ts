// Standby by itself as it is typed, what is asked of the server for it, and what people read of it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { fakeInstance, startFakeServer, type FakeServer } from '../../tests/support/fake-server.ts'
import { hypeman } from '../../tests/support/fake-terminal.ts'

function sent(server: FakeServer, route: string): Readonly<Record<string, unknown>> {
  return server.requests.findLast((request) => `${request.method} ${request.path}` === route)?.body as Readonly<Record<string, unknown>>
}

test('run and update send the policy that their options describe, and nothing of it without', async () => {
  await using server = await startFakeServer()
  server.on('GET /images/alpine:3.20', {
    json: { name: 'docker.io/library/alpine:3.20', digest: 'sha256:00', status: 'ready', created_at: '2026-01-01T00:00:00Z' },
  })
  server.on('POST /instances', { status: 201, json: fakeInstance('web') })
  const run = async (...options: string[]): Promise<unknown> => {
    const { code, stderr } = await hypeman(server.url, ['run', '-d', '--name', 'web', ...options, 'alpine:3.20'])
    assert.equal(code, 0, stderr)
    return sent(server, 'POST /instances')['auto_standby']
  }
  const ignored = ['--auto-standby-ignore-source-cidr', '10.0.0.0/8', '--auto-standby-ignore-source-cidr', 'fd00::/8']
  assert.deepEqual(await run('--auto-standby-idle-timeout', '10m', ...ignored, '--auto-standby-ignore-destination-port', '9100'), {
    ...{ enabled: true, idle_timeout: '10m', ignore_source_cidrs: ['10.0.0.0/8', 'fd00::/8'], ignore_destination_ports: [9100] },
  })
  assert.deepEqual(await run('--auto-standby-enabled', '--auto-standby-idle-timeout', '1m'), { enabled: true, idle_timeout: '1m' })
  assert.equal(await run(), undefined)

  server.on('PATCH /instances/web', { json: fakeInstance('web', { auto_standby: { enabled: true, idle_timeout: '5m0s' } }) })
  const { stdout } = await hypeman(server.url, ['update', 'auto-standby', 'web', '--idle-timeout', '5m', '--ignore-destination-port', '22'])
  assert.equal(stdout, 'web goes to standby when nobody has used it for 5m0s\n')
  assert.deepEqual(sent(server, 'PATCH /instances/web'), {
    auto_standby: { enabled: true, idle_timeout: '5m', ignore_destination_ports: [22] },
  })
  await hypeman(server.url, ['update', 'auto-standby', 'web', '--off'])
  assert.deepEqual(sent(server, 'PATCH /instances/web'), { auto_standby: { enabled: false } })
  assert.equal((await hypeman(server.url, ['update', 'auto-standby', 'web'])).code, 2)
  assert.equal((await hypeman(server.url, ['update', 'auto-standby', 'web', '--ignore-destination-port', '0'])).code, 2)
})

const status = (change: object): object => ({
  ...{ supported: true, configured: true, enabled: true, eligible: true, active_inbound_connections: 0, tracking_mode: 'host_tcp_sockets' },
  ...change,
})

test('status and hold say in a line how it stands, and why not', async () => {
  await using server = await startFakeServer()
  const lineOf = async (change: object, verb = 'status'): Promise<string> => {
    server.on(`${verb === 'status' ? 'GET' : 'POST'} /instances/web/auto-standby/${verb}`, { json: status(change) })
    const { stdout } = await hypeman(server.url, ['auto-standby', verb, 'web'])
    return stdout.trim()
  }
  const used = { status: 'active', reason: 'active_inbound_connections', active_inbound_connections: 2 }
  assert.equal(await lineOf(used), 'web: used by 2 connections')
  const [past, future] = [-60_000, 3_600_000].map((ms) => new Date(Date.now() + ms).toISOString())
  const idle = { status: 'idle_countdown', reason: 'idle_timeout_not_elapsed', idle_since: past, next_standby_at: future }
  assert.match(await lineOf(idle, 'hold'), /^web: unused since .*ago, goes to standby in .* \(20.*Z\)$/)
  assert.equal(
    await lineOf({ status: 'disabled', reason: 'policy_missing', eligible: false }),
    'web: does not go to standby by itself: it has no policy for that',
  )
})

test('a hold of one that sleeps fails with what to do', async () => {
  await using server = await startFakeServer()
  server.on('POST /instances/web/auto-standby/hold', {
    status: 409,
    json: { code: 'instance_in_standby', message: 'the instance web is in standby, or on its way; hypeman restore web' },
  })
  const { code, stderr } = await hypeman(server.url, ['auto-standby', 'hold', 'web'])
  assert.equal(code, 1)
  assert.match(stderr, /hypeman restore web/)
})
