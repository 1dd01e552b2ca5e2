// Capabilities and health, over the official client: what the server says it can do is what a real machine of it does, and what it says it can't is refused.

import assert from 'node:assert/strict'
import os from 'node:os'
import { after, test } from 'node:test'
import Hypeman, { APIConnectionError, APIError } from '@onkernel/hypeman'
import { hasHostNetwork } from '../support/host-network.ts'
import { runMachine, shell, small } from '../support/machine.ts'
import { startServer } from '../support/server.ts'
import { countVm } from '../support/vm-count.ts'

const server = await startServer()
after(() => server[Symbol.asyncDispose]())

const codeOf = (error: unknown): string | undefined => (error instanceof APIError ? (error.error as { code: string }).code : undefined)
const withToken = (apiKey: string): Hypeman => new Hypeman({ apiKey, baseURL: server.url, maxRetries: 0 })
const allHypervisors = ['cloud-hypervisor', 'firecracker', 'qemu', 'qemu-microvm', 'vz']

test('health is told to everybody while the server is there, and to nobody when it is not', async () => {
  assert.deepEqual(await server.client.health.check(), { status: 'ok' })
  const stranger = withToken('not a token')
  assert.deepEqual(await stranger.health.check(), { status: 'ok' })
  await assert.rejects(stranger.capabilities.get(), (error) => error instanceof APIError && error.status === 401)
  await server.stop()
  await assert.rejects(withToken(server.token).health.check(), APIConnectionError)
  await server.restart()
  assert.deepEqual(await server.client.health.check(), { status: 'ok' })
})

test('the host, its platform and every hypervisor are named, the default among them', async () => {
  const { host, images, runtimes, default_runtime: preferred, features, server: build } = await server.client.capabilities.get()
  const arch = os.arch() === 'x64' ? 'amd64' : os.arch()
  assert.deepEqual(host, { os: 'linux', arch })
  assert.deepEqual(images, { default_platform: `linux/${arch}`, platforms: [`linux/${arch}`] })
  assert.deepEqual(
    runtimes.map(({ name }) => name),
    allHypervisors,
  )
  assert.equal(preferred.available, runtimes.find(({ name }) => name === preferred.name)?.available)
  assert.deepEqual(features.toSorted(), ['exec', 'images', 'instances', 'logs', 'volumes'])
  assert.match(build.api_version, /^\d+\.\d+\.\d+$/)
  assert.notEqual(build.version, '')
  const other = arch === 'arm64' ? 'linux/amd64' : 'linux/arm64'
  await assert.rejects(
    server.client.instances.create({ ...small, name: 'elsewhere', platform: other }),
    (error) => codeOf(error) === 'invalid_platform',
  )
})

test('what a hypervisor is said to do its machines do', async () => {
  const { instances, snapshots, capabilities } = server.client
  const { runtimes, default_runtime: preferred } = await capabilities.get()
  assert.ok(preferred.available)
  const { features = [] } = runtimes.find(({ name }) => name === preferred.name) ?? {}
  assert.deepEqual(
    ['snapshots', 'standby', 'fork', 'disk-io-limit'].filter((one) => !features.includes(one)),
    [],
  )
  const id = await runMachine(server, { name: 'able', disk_io_bps: '100MB/s' })
  const { hypervisor, disk_io_bps: limit } = await instances.get(id)
  assert.deepEqual([hypervisor, limit], [preferred.name, '100.0 MB/s'])
  await shell(server, id, 'echo kept >/dev/shm/kept')
  const shot = await instances.snapshots.create(id, { kind: 'Standby' })
  const fork = await snapshots.fork(shot.id, { name: 'able-fork' })
  countVm('fork')
  assert.equal(await shell(server, fork.id, 'cat /dev/shm/kept'), 'kept')
  assert.equal((await instances.standby(id)).state, 'Standby')
  await instances.restore(id)
  countVm('restore')
  assert.equal(await shell(server, id, 'cat /dev/shm/kept'), 'kept')
  for (const one of [fork.id, id]) await instances.delete(one)
  await snapshots.delete(shot.id)
})

test('what a hypervisor is said not to do is refused: no machine of one that is not available, no memory taken back without a balloon', async () => {
  const { instances, resources, capabilities } = server.client
  const { runtimes, default_runtime: preferred } = await capabilities.get()
  const missing = runtimes.filter(({ available }) => !available)
  for (const runtime of missing) {
    assert.notEqual((runtime as { readonly reason?: string }).reason ?? '', '', runtime.name)
    const hypervisor = runtime.name as 'vz'
    await assert.rejects(
      instances.create({ ...small, name: 'unable', hypervisor, network: { enabled: false } }),
      (error) => error instanceof APIError && error.status === 503 && codeOf(error) === 'host_unavailable',
      runtime.name,
    )
  }
  assert.ok(
    missing.some(({ name }) => name === 'vz'),
    'no host of these tests is a Mac',
  )
  const balloons = runtimes.filter(({ available, features }) => available && features.includes('balloon-control'))
  if (balloons.length === 0)
    await assert.rejects(resources.reclaimMemory({ reclaim_bytes: 0 }), (error) => codeOf(error) === 'not_supported')
  assert.ok(runtimes.every(({ name, features }) => name !== preferred.name || !features.includes('gpu-passthrough')))
  await assert.rejects(
    instances.create({ ...small, name: 'unable', gpu: { profile: 'L40S-1Q' } }),
    (error) => codeOf(error) === 'not_supported',
  )
  assert.deepEqual(await instances.list(), [])
})

test(
  'the network that is told is the one that guests are on',
  { skip: hasHostNetwork ? false : 'needs root and /dev/net/tun' },
  async () => {
    const { network: usual } = await server.client.capabilities.get()
    assert.deepEqual(usual, { model: 'nat', guest_to_guest: false })
    await server.restart({ NETWORK__MODE: 'tap', NETWORK__SUBNET_CIDR: '10.219.0.0/24' })
    const { network } = await server.client.capabilities.get()
    assert.deepEqual(network, { model: 'nat', guest_to_guest: false, gateway: '10.219.0.1', subnet: '10.219.0.0/24' })
    const id = await runMachine(server, { name: 'routed' })
    assert.match((await server.client.instances.get(id)).network?.ip ?? '', /^10\.219\.0\.\d+$/)
    assert.match(await shell(server, id, 'ip route'), /default via 10\.219\.0\.1 /)
    await server.client.instances.delete(id)
  },
)
