// Restart policies and health checks on real machines, asked for and looked at through the official client.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { eventsOf } from '../support/instance-events.ts'
import { runMachine, shell, small } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

const LIMIT_MS = 120_000
const get = (id: string) => server.client.instances.get(id)
const statusOf = async (id: string) => (await get(id)).health_status?.status
const restartsOf = async (id: string) => (await get(id)).restart_status ?? {}

test('a program that fails is started again after its backoff, and given up after its attempts; what is planned outlives the server', async () => {
  const created = await server.client.instances.create({
    ...small,
    name: 'failing',
    // The count is on the disk, which a restart keeps.
    cmd: ['/bin/sh', '-c', 'echo run >> /root/runs; cat /root/runs | wc -l; exit 3'],
    restart_policy: { policy: 'on_failure', backoff: '2s', max_attempts: 2 },
  })
  const { id } = created
  assert.deepEqual(created.restart_policy, { policy: 'on_failure', backoff: '2s', max_attempts: 2, stable_after: '10m0s' })
  await until('an attempt is planned', async () => typeof (await restartsOf(id)).next_attempt_at === 'string', LIMIT_MS)
  const planned = await get(id)
  assert.deepEqual([planned.state, planned.exit_code, planned.restart_status?.attempts], ['Stopped', 3, 0])
  assert.equal(Date.parse(planned.restart_status?.next_attempt_at ?? '') - Date.parse(planned.stopped_at ?? '') >= 1_990, true)
  await server.crash()
  await server.restart()
  await until('it is given up', async () => typeof (await restartsOf(id)).blocked_reason === 'string', LIMIT_MS)
  const { state, restart_status: given } = await get(id)
  assert.deepEqual([state, given?.attempts, given?.blocked_reason, given?.next_attempt_at], ['Stopped', 2, 'max_attempts_exceeded', null])
  const lines: string[] = []
  for await (const line of await server.client.instances.logs(id, { tail: 10 })) lines.push(line.trim())
  assert.deepEqual(
    lines.filter((line) => /^\d+$/.test(line)),
    ['1', '2', '3'],
  )
  const told = (await eventsOf(server, id)).flatMap((event) => (event.type === 'restart' ? [event.message ?? ''] : []))
  assert.deepEqual(
    told.map((message) => message.replace(/ at \S+Z$/, ' at TIME')),
    [
      'attempt 1 of 2 to start it again is at TIME',
      'attempt 1 to start it again begins',
      'attempt 2 of 2 to start it again is at TIME',
      'attempt 2 to start it again begins',
      'not started again: 2 attempts in a row did not last (max_attempts_exceeded)',
    ],
  )

  // A start by hand begins anew, and a stop by hand ends it while nothing runs.
  await server.client.instances.start(id, {})
  await until('an attempt is planned again', async () => typeof (await restartsOf(id)).next_attempt_at === 'string', LIMIT_MS)
  await server.client.instances.update(id, { restart_policy: { policy: 'always', backoff: '1h' } })
  assert.equal((await restartsOf(id)).attempts, 0)
  const stopped = await server.client.instances.stop(id)
  assert.deepEqual([stopped.state, stopped.restart_status?.blocked_reason], ['Stopped', 'manual_stop'])
  assert.equal(stopped.restart_status?.next_attempt_at, null)
  await assert.rejects(server.client.instances.stop(id), (error) => error instanceof APIError && error.status === 409)
  await server.client.instances.delete(id)
})

test('a failing check makes a machine unhealthy, which starts it again from its disks; forks begin with fresh counters', async () => {
  const id = await runMachine(server, {
    name: 'checked',
    // Says on its disk how often it was started.
    cmd: ['/bin/sh', '-c', 'echo boot >> /root/boots; httpd -p 8080; exec sleep 100000'],
    restart_policy: { policy: 'on_failure', backoff: '500ms', max_attempts: 3 },
    health_check: { tcp: { port: 8080 }, interval: '300ms', timeout: '5s', start_period: '0s', failure_threshold: 2 },
  })
  await until('it is healthy', async () => (await statusOf(id)) === 'healthy', LIMIT_MS)
  const fork = await server.client.instances.fork(id, { name: 'checked-fork', from_running: true })
  countVm('fork')
  await shell(server, id, 'killall httpd')
  await until('a restart is under way', async () => typeof (await restartsOf(id)).last_attempt_at === 'string', LIMIT_MS)
  await until('it runs again and is healthy', async () => (await statusOf(id)) === 'healthy', LIMIT_MS)
  countVm('restart')
  const { restart_status: status } = await get(id)
  assert.deepEqual([status?.attempts, status?.last_reason, status?.blocked_reason], [1, 'health_check_failed', null])
  assert.equal(await shell(server, id, 'cat /root/boots'), 'boot\nboot')
  const seen = (await eventsOf(server, id)).flatMap((event) => (event.type === 'health' ? [event.status] : []))
  assert.deepEqual(seen, ['healthy', 'unhealthy', 'healthy'])

  const forked = await get(fork.id)
  assert.deepEqual(forked.health_check, (await get(id)).health_check)
  assert.deepEqual([forked.restart_status?.attempts, forked.restart_status?.last_attempt_at], [0, null])
  await until('the fork is healthy by its own checks', async () => (await statusOf(fork.id)) === 'healthy', LIMIT_MS)
  await server.client.instances.delete(fork.id)

  // In standby nothing is checked, and the program's death by request is not undone.
  await server.client.instances.standby(id)
  assert.equal(await statusOf(id), 'unknown')
  await server.client.instances.restore(id)
  await until('it is checked afresh', async () => (await statusOf(id)) === 'healthy', LIMIT_MS)
  const stopped = await server.client.instances.stop(id)
  assert.deepEqual([stopped.state, stopped.restart_status?.blocked_reason], ['Stopped', 'manual_stop'])
  await server.client.instances.delete(id)
})

test('http and exec are checked in the guest, without a published port; an update changes the check', async () => {
  const id = await runMachine(server, {
    name: 'served',
    cmd: ['/bin/sh', '-c', 'mkdir -p /www && echo fine > /www/health && exec httpd -f -p 80 -h /www'],
    health_check: { http: { port: 80, path: '/health' }, interval: '200ms', timeout: '5s', start_period: '0s' },
  })
  await until('http is healthy', async () => (await statusOf(id)) === 'healthy', LIMIT_MS)
  await server.client.instances.update(id, {
    health_check: { http: { port: 80, path: '/nothing' }, interval: '200ms', timeout: '5s', start_period: '0s', failure_threshold: 1 },
  })
  await until('http is unhealthy', async () => (await statusOf(id)) === 'unhealthy', LIMIT_MS)
  assert.equal((await get(id)).health_status?.last_error, 'status 404 instead of 200')
  assert.equal((await get(id)).state, 'Running')
  const exec = (script: string) => ({
    health_check: {
      exec: { command: ['/bin/sh', '-c', script], working_dir: '/www' },
      ...{ interval: '200ms', timeout: '500ms', start_period: '0s', failure_threshold: 1 },
    },
  })
  await server.client.instances.update(id, exec('echo $PWD is bad; exit 4'))
  await until('exec is unhealthy', async () => (await statusOf(id)) === 'unhealthy', LIMIT_MS)
  assert.equal((await get(id)).health_status?.last_error, 'exit code 4: /www is bad')
  await server.client.instances.update(id, exec('sleep 60'))
  await until('it takes too long', async () => (await get(id)).health_status?.last_error === 'no end within 500 ms', LIMIT_MS)
  await server.client.instances.update(id, { health_check: { type: 'none' } })
  assert.deepEqual((await get(id)).health_status, { status: 'disabled', consecutive_successes: 0, consecutive_failures: 0 })
  await server.client.instances.delete(id)
})

test('policies and checks that can not be are refused by their own codes', async () => {
  const refused = (code: string) => (error: unknown) =>
    error instanceof APIError && error.status === 400 && (error.error as { code: string }).code === code
  const create = (fields: object) => server.client.instances.create({ ...small, name: 'refused', ...fields })
  await assert.rejects(create({ restart_policy: { policy: 'always', backoff: 'soon' } }), refused('invalid_restart_policy'))
  await assert.rejects(create({ health_check: { type: 'http' } }), refused('invalid_health_check'))
  await assert.rejects(create({ health_check: { tcp: { port: 1 } }, network: { enabled: false } }), refused('invalid_health_check'))
  await assert.rejects(create({ health_check: { exec: { command: ['true'] } }, skip_guest_agent: true }), refused('invalid_health_check'))
  assert.deepEqual(await server.client.instances.list(), [])
})
