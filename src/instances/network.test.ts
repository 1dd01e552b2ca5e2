// Which network an instance gets: by what was asked for, what the server is set to, and what its hypervisor and host can do.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aDriver, aHostNetwork, aRecord, testContext } from '../../tests/support/instance-context.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import type { InstanceContext } from './context.ts'
import { claimNetwork, forkedNetwork, newNetwork, recoverNetworks, releaseNetwork, restoredNetwork, type WantedNetwork } from './network.ts'

const both = aDriver('qemu', { networks: ['user', 'tap'] })
const tapOnly = aDriver('firecracker', { networks: ['tap'] })
const userOnly = aDriver('vz', { networks: ['user'] })
const plain: WantedNetwork = { ports: [], downloadBytesPerSecond: null, uploadBytesPerSecond: null }
const limited: WantedNetwork = { ...plain, uploadBytesPerSecond: 1000 }
const port = { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: false } as const
const onTap = {
  kind: 'tap',
  mac: '02:00:00:00:00:01',
  ports: [port],
  address: '10.100.0.2',
  downloadBytesPerSecond: null,
  uploadBytesPerSecond: 5,
} as const

type Mode = InstanceContext['settings']['networkMode']

async function kindOf(mode: Mode, driver: Hypervisor, wanted: WantedNetwork, hostNetwork = aHostNetwork()): Promise<string> {
  await using world = await testContext({ hostNetwork })
  const { context } = world
  return (await newNetwork({ ...context, settings: { ...context.settings, networkMode: mode } }, driver, wanted)).kind
}
const refused = (code: ErrorCode, message: RegExp) => (error: unknown) => isHypemanError(error, code) && message.test(error.message)

test('a new instance is where its hypervisor usually is, on a device where a limit needs one, and where the setting says', async () => {
  assert.deepEqual(
    [await kindOf('auto', both, plain), await kindOf('auto', both, limited), await kindOf('auto', tapOnly, plain)],
    ['user', 'tap', 'tap'],
  )
  assert.deepEqual([await kindOf('tap', both, plain), await kindOf('user', both, plain)], ['tap', 'user'])
})

test('what can not be is refused, and the message says what to set', async () => {
  await assert.rejects(kindOf('user', both, limited), refused('not_supported', /bandwidth_upload.*network\.mode/))
  await assert.rejects(kindOf('auto', userOnly, limited), refused('not_supported', /bandwidth_upload/))
  await assert.rejects(kindOf('user', tapOnly, plain), refused('not_supported', /network\.mode/))
  const without = aHostNetwork({ unavailable: () => Promise.resolve('no tun here') })
  await assert.rejects(kindOf('tap', both, plain, without), refused('host_unavailable', /no tun here/))
  await assert.rejects(kindOf('auto', both, limited, without), refused('not_supported', /no tun here/))
  assert.equal(await kindOf('auto', both, plain, without), 'user')
  const ports = [{ ...port, hostAddress: '::1' }]
  await assert.rejects(kindOf('tap', both, { ...plain, ports }), refused('invalid_request', /::1/))
})

test('a fork has limits and ports as its source, a MAC of its own, and gets address and host ports when it starts', () => {
  const forked = forkedNetwork(both, onTap)
  assert.notEqual(forked.mac, onTap.mac)
  assert.deepEqual(forked, { ...onTap, mac: forked.mac, address: null, ports: [{ ...port, hostPort: 0, automatic: true }] })
})

test('a restored instance keeps its network; under another hypervisor it has what that can do, unless a limit would be lost', () => {
  assert.equal(restoredNetwork(both, { ...onTap, address: '10.100.0.9' }, onTap), onTap)
  assert.equal(restoredNetwork(both, null, onTap), null)
  const unlimited = { ...onTap, uploadBytesPerSecond: null }
  assert.deepEqual(restoredNetwork(userOnly, onTap, unlimited), { kind: 'user', mac: onTap.mac, ports: [port] })
  assert.throws(() => restoredNetwork(userOnly, onTap, onTap), refused('not_supported', /bandwidth_upload/))
})

test('an instance keeps its address while nobody else has it, and gets another one else', async () => {
  let usable = true
  await using world = await testContext({ hostNetwork: aHostNetwork({ isUsable: () => Promise.resolve(usable) }) })
  const { context } = world
  const [automatic] = [{ ...onTap, ports: [] }]
  const claimed = async (record = aRecord()): Promise<string | null> => {
    using claim = await claimNetwork(context, record)
    return claim.network?.kind === 'tap' ? claim.network.address : null
  }
  const record = { ...aRecord(), network: automatic }
  assert.equal(await claimed(record), '10.100.0.2')
  await world.add({ network: automatic })
  assert.equal(await claimed(record), '10.100.0.3')
  usable = false
  assert.equal(await claimed({ ...aRecord(), network: { ...automatic, address: '10.100.0.7' } }), '10.100.0.3')
  assert.equal(await claimed({ ...aRecord(), network: { ...automatic, address: null } }), '10.100.0.3')
  assert.equal(await claimed(), null)
})

test('when the server starts, networks of machines that may be there stay; what can not be taken away is no failure', async () => {
  const recovered: string[][] = []
  const hostNetwork = aHostNetwork({
    recover: (running) => Promise.resolve(void recovered.push(running.map(({ id }) => id))),
    detach: () => Promise.reject(new Error('busy')),
  })
  await using world = await testContext({ hostNetwork })
  const alive = await world.add({ network: onTap })
  alive.machine = { ...({} as NonNullable<typeof alive.machine>) }
  const gone = await world.add({ network: onTap })
  await world.add({})
  await recoverNetworks(world.context)
  assert.deepEqual(recovered, [[alive.id]])
  await releaseNetwork(world.context, gone.record)
})
