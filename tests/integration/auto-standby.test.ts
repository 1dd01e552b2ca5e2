// Standby by itself on a real machine: connections to its published port and commands in it keep it awake, and it sleeps when they are gone. Asked for and looked at
// through the official client.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { eventsOf } from '../support/instance-events.ts'
import { runIn, runMachine, shell, small } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { vmmsOf } from '../support/vmm.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

const LIMIT_MS = 120_000
/** Longer than anything here takes that shall not be cut off by it, and than the second between two looks. */
const TIMEOUT = '5s'
const TIMEOUT_MS = 5_000

const instances = () => server.client.instances
const statusOf = (id: string) => instances().autoStandby.status(id)
const timeOf = (text: string | null | undefined): number => Date.parse(text ?? assert.fail('no time is told'))
const refused = (status: number, code: string) => (error: unknown) =>
  error instanceof APIError && error.status === status && (error.error as { code: string }).code === code

async function visit(id: string): Promise<Socket> {
  const { network } = (await instances().get(id)) as { network?: { ports?: { host_port: number }[] } }
  const socket = connect({ host: '127.0.0.1', port: network?.ports?.[0]?.host_port ?? assert.fail('no port is published') })
  await once(socket, 'connect')
  return socket
}

async function leave(socket: Socket): Promise<void> {
  socket.resume().end()
  if (!socket.closed) await once(socket, 'close')
}

const untilAsleep = async (id: string): Promise<void> => {
  await until('it is in standby', async () => (await instances().get(id)).state === 'Standby', LIMIT_MS)
}

const web = await runMachine(server, {
  name: 'web',
  cmd: ['/bin/sh', '-c', 'mkdir -p /www && echo page > /www/index.html && exec httpd -f -p 80 -h /www'],
  network: { ports: [{ guest_port: 80 }] } as object,
  auto_standby: { enabled: true, idle_timeout: '1h' },
})

test('the policy is shown, outlives the server, and goes with forks; what is none is refused', async () => {
  const policy = { enabled: true, idle_timeout: '1h0m0s', ignore_source_cidrs: [], ignore_destination_ports: [] }
  assert.deepEqual((await instances().get(web)).auto_standby, policy)
  await server.crash()
  await server.restart()
  assert.deepEqual((await instances().get(web)).auto_standby, policy)
  const status = await statusOf(web)
  assert.deepEqual(
    [status.supported, status.configured, status.enabled, status.eligible, status.status, status.reason],
    [true, true, true, true, 'idle_countdown', 'idle_timeout_not_elapsed'],
  )
  const idleMs = Date.now() - timeOf(status.idle_since)
  assert.ok(idleMs >= 0 && idleMs < 60_000, 'it counts from the start of this server')
  assert.equal(timeOf(status.next_standby_at) - timeOf(status.idle_since), 3_600_000)
  const fork = await instances().fork(web, { name: 'web-fork', from_running: true })
  countVm('fork')
  assert.deepEqual(fork.auto_standby, policy)
  await instances().delete(fork.id)

  await assert.rejects(instances().update(web, { auto_standby: { enabled: true } }), refused(400, 'invalid_auto_standby'))
  const wrong = { enabled: true, idle_timeout: '1m', ignore_source_cidrs: ['everywhere'] }
  await assert.rejects(instances().create({ ...small, name: 'refused', auto_standby: wrong }), refused(400, 'invalid_auto_standby'))
})

test('connections count while they are open, when they were short, and not from networks or to ports that are to be ignored', async () => {
  const visitor = await visit(web)
  await until('it is seen', async () => (await statusOf(web)).active_inbound_connections === 1)
  const { status, reason, idle_since: idleSince } = await statusOf(web)
  assert.deepEqual([status, reason, idleSince], ['active', 'active_inbound_connections', null])
  for (const ignored of [{ ignore_source_cidrs: ['127.0.0.0/8'] }, { ignore_destination_ports: [80] }]) {
    await instances().update(web, { auto_standby: { enabled: true, idle_timeout: '1h', ...ignored } })
    assert.equal((await statusOf(web)).active_inbound_connections, 0)
  }
  await instances().update(web, { auto_standby: { enabled: true, idle_timeout: '1h' } })
  assert.equal((await statusOf(web)).active_inbound_connections, 1)
  await leave(visitor)
  await until('it is seen to be gone', async () => (await statusOf(web)).active_inbound_connections === 0)

  const before = Date.now()
  const page = await visit(web)
  page.write('GET / HTTP/1.0\r\n\r\n')
  await leave(page)
  // Timers of the kernel's go by hundredths of a second.
  await until('it is told', async () => timeOf((await statusOf(web)).last_inbound_activity_at) >= before - 100)
})

test('it sleeps when nobody has used it for its timeout, and is woken by a restore; a visitor keeps it awake for longer', async () => {
  const visitor = await visit(web)
  await instances().update(web, { auto_standby: { enabled: true, idle_timeout: TIMEOUT } })
  const begun = Date.now()
  // Whether it stays awake can only be seen when it would long have gone to sleep.
  await until('it was used for longer than its timeout', async () => {
    const { last_inbound_activity_at: activity } = await statusOf(web)
    return timeOf(activity) > begun + TIMEOUT_MS + 2_000
  })
  assert.equal((await instances().get(web)).state, 'Running')
  await leave(visitor)
  const left = Date.now()
  const held = await instances().autoStandby.hold(web)
  assert.ok(timeOf(held.hold_until) >= left + TIMEOUT_MS)
  await untilAsleep(web)
  assert.ok(Date.now() >= timeOf(held.hold_until))
  assert.deepEqual(vmmsOf(server), [])
  await until('its events say why', async () => {
    const last = (await eventsOf(server, web)).findLast((event) => event.type === 'state')
    return /^memory is on disk; nobody used it since 20.*Z$/.test(last?.message ?? '')
  })
  assert.deepEqual([(await statusOf(web)).status, (await statusOf(web)).reason], ['ineligible', 'instance_not_running'])
  await assert.rejects(instances().autoStandby.hold(web), refused(409, 'instance_in_standby'))

  await instances().restore(web)
  countVm('restore')
  // A command that takes longer than the timeout runs to its end.
  assert.deepEqual(await runIn(server, web, `sleep ${TIMEOUT_MS / 1000 + 3}; echo done`), { output: 'done', exitCode: 0 })
  await untilAsleep(web)
  await instances().restore(web)
  countVm('restore')
  await instances().update(web, { auto_standby: { enabled: false } })
  assert.equal(await shell(server, web, 'cat /www/index.html'), 'page')
  assert.deepEqual([(await statusOf(web)).status, (await statusOf(web)).reason], ['disabled', 'policy_disabled'])
  assert.equal((await instances().autoStandby.hold(web)).hold_until, null)
  await instances().delete(web)
  await assert.rejects(statusOf(web), refused(404, 'not_found'))
})
