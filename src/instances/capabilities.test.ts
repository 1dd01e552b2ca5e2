// What the server says that it can do is what its drivers say.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aDriver, aHostNetwork, testContext } from '../../tests/support/instance-context.ts'
import { capabilities } from '../api/schemas/capabilities.ts'
import type { InstanceContext } from './context.ts'
import { describeCapabilities, hostPlatform } from './capabilities.ts'

async function described(drivers: InstanceContext['drivers']): ReturnType<typeof describeCapabilities> {
  await using world = await testContext({ drivers })
  return capabilities.parse(await describeCapabilities(world.context, '1.2.3'))
}

test('the addresses of guests are told where new ones are on the host’s network', async () => {
  const stamp = { hypervisor: 'qemu', version: '7.2', machineType: 'q35', accelerator: 'kvm' } as const
  const drivers = new Map([['qemu', aDriver('qemu', { networks: ['user', 'tap'], stamp: () => Promise.resolve(stamp) })]] as const)
  await using world = await testContext({ drivers, hostNetwork: aHostNetwork() })
  const networkIn = async (networkMode: 'auto' | 'tap') =>
    (await describeCapabilities({ ...world.context, settings: { ...world.context.settings, networkMode } }, '1')).network
  assert.deepEqual(await networkIn('auto'), { model: 'nat', guest_to_guest: false })
  assert.deepEqual(await networkIn('tap'), { model: 'nat', guest_to_guest: false, gateway: '10.100.0.1', subnet: '10.100.0.0/16' })
})

test('a hypervisor whose machines run in jails says so among its features', async () => {
  const stamp = { hypervisor: 'firecracker', version: '1.14.2', machineType: 'x', accelerator: 'kvm' } as const
  for (const [jailed, features] of [
    [true, ['fork', 'jail']],
    [false, ['fork']],
  ] as const) {
    const driver = aDriver('firecracker', {
      features: ['fork'],
      stamp: () => Promise.resolve(stamp),
      jailed: () => Promise.resolve(jailed),
    })
    const { runtimes } = await described(new Map([['firecracker', driver]]))
    assert.deepEqual(runtimes.find(({ name }) => name === 'firecracker')?.features, features)
  }
})

test('every hypervisor that the wire knows is listed by name; only what is here and can run is available, the others say why not', async () => {
  const stamp = { hypervisor: 'qemu', version: '7.2', machineType: 'q35', accelerator: 'kvm' } as const
  const { runtimes, default_runtime: preferred } = await described(
    new Map([
      ['qemu', aDriver('qemu', { features: ['memory-snapshots', 'fork'], stamp: () => Promise.resolve(stamp) })],
      ['qemu-microvm', aDriver('qemu-microvm', { features: ['fork'], unavailable: () => Promise.resolve('there is no QEMU; install it') })],
    ]),
  )
  const unknown = { available: false, features: [], reason: 'this server knows no such hypervisor; choose another' }
  assert.deepEqual(runtimes, [
    { name: 'cloud-hypervisor', ...unknown },
    { name: 'firecracker', ...unknown },
    { name: 'qemu', available: true, features: ['memory-snapshots', 'fork'], version: '7.2' },
    { name: 'qemu-microvm', available: false, features: ['fork'], reason: 'there is no QEMU; install it' },
    { name: 'vz', ...unknown },
  ])
  assert.deepEqual(preferred, { name: 'qemu', available: true })
})

test('a default hypervisor that can not run is named as not available', async () => {
  assert.deepEqual((await described(new Map())).default_runtime, { name: 'qemu', available: false })
})

test('images are for the platform of this host, as images name it', async () => {
  assert.match(hostPlatform(), /^linux\/(amd64|arm64)$/)
  const { images, server } = await described(new Map())
  assert.deepEqual(images, { default_platform: hostPlatform(), platforms: [hostPlatform()] })
  assert.equal(server.version, '1.2.3')
})
