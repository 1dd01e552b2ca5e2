// Health checks that the host makes, of instances whose agent is not to be waited for: on a tap device and by a published port, through the official client.

import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { after, test } from 'node:test'
import { APIError } from '@onkernel/hypeman'
import { hasHostNetwork } from '../support/host-network.ts'
import { runMachine } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

const rights = hasHostNetwork ? false : 'needs root and /dev/net/tun: devices and rules of the host'
const server = await startServer({ NETWORK__SUBNET_CIDR: '10.218.0.0/24' })
after(() => server[Symbol.asyncDispose]())

const LIMIT_MS = 120_000
const instances = () => server.client.instances
const refused = (message: RegExp) => (error: unknown) =>
  error instanceof APIError &&
  error.status === 400 &&
  (error.error as { code: string }).code === 'invalid_health_check' &&
  message.test(error.message)

/** Often enough for a test, with time for a guest that is slow. */
const timing = { interval: '200ms', timeout: '5s', start_period: '0s', failure_threshold: 1 }
/** A page, and a path at which there is none. */
const page = {
  cmd: ['/bin/sh', '-c', 'mkdir -p /www && echo fine > /www/health && exec httpd -f -p 80 -h /www'],
  skip_guest_agent: true,
}
const healthOf = async (id: string) => (await instances().get(id)).health_status
const untilIs = (id: string, status: string): Promise<void> =>
  until(`it is ${status}`, async () => (await healthOf(id))?.status === status, LIMIT_MS)

test(
  'on a tap device, where the server puts it for the sake of the check, connections and requests are made from the host',
  { skip: rights },
  async () => {
    const id = await runMachine(server, { name: 'tapped', ...page, health_check: { tcp: { port: 80 }, ...timing } })
    assert.match((await instances().get(id)).network?.ip ?? '', /^10\.218\.0\./)
    await untilIs(id, 'healthy')
    await instances().update(id, { health_check: { tcp: { port: 81 }, ...timing } })
    await untilIs(id, 'unhealthy')
    assert.match((await healthOf(id))?.last_error ?? '', /ECONNREFUSED/)
    await instances().update(id, { health_check: { http: { port: 80, path: '/health' }, ...timing } })
    await untilIs(id, 'healthy')
    await instances().update(id, { health_check: { http: { port: 80, path: '/nothing' }, ...timing } })
    await untilIs(id, 'unhealthy')
    assert.equal((await healthOf(id))?.last_error, 'status 404 instead of 200')
    await assert.rejects(instances().update(id, { health_check: { exec: { command: ['true'] } } }), refused(/guest agent/))
  },
)

test(
  'such checks are no use of an instance: it goes to standby by itself all the same',
  {
    skip: rights || (existsSync('/proc/net/nf_conntrack') ? false : 'the kernel does not list the connections that it tracks'),
  },
  async () => {
    await instances().update('tapped', {
      health_check: { http: { port: 80, path: '/health' }, ...timing },
      auto_standby: { enabled: true, idle_timeout: '3s' },
    })
    await untilIs('tapped', 'healthy')
    await until('it is in standby', async () => (await instances().get('tapped')).state === 'Standby', LIMIT_MS)
    await instances().update('tapped', { auto_standby: { enabled: false } })
    await instances().restore('tapped')
    countVm('restore')
    await untilIs('tapped', 'healthy')
    await instances().delete('tapped')
  },
)

test('in user mode a published port leads to what is asked by http, and what can not be asked is refused', async () => {
  const network = { ports: [{ guest_port: 80 }] } as object
  const id = await runMachine(server, {
    name: 'published',
    ...page,
    network,
    health_check: { http: { port: 80, path: '/health' }, ...timing },
  })
  assert.equal((await instances().get(id)).network?.ip, '10.0.2.15')
  await untilIs(id, 'healthy')
  await instances().update(id, { health_check: { http: { port: 80, path: '/nothing' }, ...timing } })
  await untilIs(id, 'unhealthy')
  assert.equal((await healthOf(id))?.last_error, 'status 404 instead of 200')
  await assert.rejects(instances().update(id, { health_check: { http: { port: 81 } } }), refused(/none leads to its tcp port 81/))
  await assert.rejects(instances().update(id, { health_check: { tcp: { port: 80 } } }), refused(/always pass/))
  await instances().delete(id)
})
