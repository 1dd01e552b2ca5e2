// Which network an instance gets: by what was asked for, what the server is set to, and what its hypervisor and host can do.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aDriver, aHostNetwork, aRecord, testContext } from '../../tests/support/instance-context.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import type { InstanceContext } from './context.ts'
import type { HealthCheck, Probe } from './health.ts'
import {
  claimNetwork,
  forkedNetwork,
  newNetwork,
  proxyVariablesOf,
  recoverNetworks,
  releaseNetwork,
  restoredNetwork,
  type WantedNetwork,
} from './network.ts'

const both = aDriver('qemu', { networks: ['user', 'tap'] })
const tapOnly = aDriver('firecracker', { networks: ['tap'] })
const userOnly = aDriver('vz', { networks: ['user'] })
const plain: WantedNetwork = { ports: [], downloadBytesPerSecond: null, uploadBytesPerSecond: null, egress: null }
const limited: WantedNetwork = { ...plain, uploadBytesPerSecond: 1000 }
const mediated: WantedNetwork = { ...plain, egress: 'all' }
const alone = { vcpus: 2, hostCheck: null }
const port = { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: false } as const
const onTap = {
  kind: 'tap',
  mac: '02:00:00:00:00:01',
  ports: [port],
  address: '10.100.0.2',
  downloadBytesPerSecond: null,
  uploadBytesPerSecond: 5,
  egress: null,
} as const

type Mode = InstanceContext['settings']['networkMode']

async function kindOf(mode: Mode, driver: Hypervisor, wanted: WantedNetwork, hostNetwork = aHostNetwork()): Promise<string> {
  await using world = await testContext({ hostNetwork })
  const { context } = world
  return (await newNetwork({ ...context, settings: { ...context.settings, networkMode: mode } }, driver, wanted, alone)).kind
}
const refused = (code: ErrorCode, message: RegExp) => (error: unknown) => isHypemanError(error, code) && message.test(error.message)

test('a new instance is where its hypervisor usually is, on a device where a limit or the proxy needs one, and where the setting says', async () => {
  assert.deepEqual(
    [
      await kindOf('auto', both, plain),
      await kindOf('auto', both, limited),
      await kindOf('auto', both, mediated),
      await kindOf('auto', tapOnly, plain),
    ],
    ['user', 'tap', 'tap', 'tap'],
  )
  assert.deepEqual([await kindOf('tap', both, plain), await kindOf('user', both, plain)], ['tap', 'user'])
})

test('what can not be is refused, and the message says what to set', async () => {
  await assert.rejects(kindOf('user', both, limited), refused('not_supported', /bandwidth_upload.*network\.mode/))
  await assert.rejects(kindOf('user', both, mediated), refused('not_supported', /network\.egress.*network\.mode/))
  await assert.rejects(kindOf('auto', userOnly, mediated), refused('not_supported', /network\.egress/))
  await assert.rejects(kindOf('auto', userOnly, limited), refused('not_supported', /bandwidth_upload/))
  await assert.rejects(kindOf('user', tapOnly, plain), refused('not_supported', /network\.mode/))
  const without = aHostNetwork({ unavailable: () => Promise.resolve('no tun here') })
  await assert.rejects(kindOf('tap', both, plain, without), refused('host_unavailable', /no tun here/))
  await assert.rejects(kindOf('auto', both, limited, without), refused('not_supported', /no tun here/))
  assert.equal(await kindOf('auto', both, plain, without), 'user')
  const ports = [{ ...port, hostAddress: '::1' }]
  await assert.rejects(kindOf('tap', both, { ...plain, ports }), refused('invalid_request', /::1/))
})

const byTcp: Probe = { type: 'tcp', port: 80 }
const byHttp: Probe = { type: 'http', port: 80, path: '/', scheme: 'http', expectedStatus: 200 }
const timing = { intervalMs: 1, timeoutMs: 1, startPeriodMs: 0, failureThreshold: 1, successThreshold: 1 }

async function kindWith(
  probe: Probe,
  mode: Mode,
  wanted: WantedNetwork,
  { driver = both, hostNetwork = aHostNetwork() } = {},
): Promise<string> {
  await using world = await testContext({ hostNetwork })
  const context = { ...world.context, settings: { ...world.context.settings, networkMode: mode } }
  const check: HealthCheck = { probe, ...timing }
  return (await newNetwork(context, driver, wanted, { ...alone, hostCheck: check })).kind
}

test('an instance that the host shall check is on a device, unless a published port leads to what is asked by http', async () => {
  const published = { ...plain, ports: [port] }
  assert.deepEqual(
    [
      await kindWith(byHttp, 'auto', published),
      await kindWith(byHttp, 'auto', { ...plain, ports: [{ ...port, protocol: 'udp' }] }),
      await kindWith(byHttp, 'auto', plain),
      await kindWith(byTcp, 'auto', published),
      await kindWith(byTcp, 'tap', plain),
      await kindWith(byHttp, 'user', published),
    ],
    ['user', 'tap', 'tap', 'tap', 'tap', 'user'],
  )
  const code = 'invalid_health_check'
  await assert.rejects(kindWith(byHttp, 'user', plain), refused(code, /published ports alone.*80.*network\.mode/))
  await assert.rejects(kindWith(byTcp, 'user', published), refused(code, /always pass.*network\.mode/))
  await assert.rejects(kindWith(byTcp, 'auto', published, { driver: userOnly }), refused(code, /always pass/))
  const hostNetwork = aHostNetwork({ unavailable: () => Promise.resolve('no tun here') })
  await assert.rejects(kindWith(byHttp, 'auto', plain, { hostNetwork }), refused(code, /none leads to its tcp port 80.*no tun here/))
  assert.equal(await kindWith(byHttp, 'auto', published, { hostNetwork }), 'user')
})

test('a fork has limits, way out and ports as its source, a MAC of its own, and gets address and host ports when it starts', () => {
  const source = { ...onTap, egress: 'http_https_only' } as const
  const forked = forkedNetwork(both, source)
  assert.notEqual(forked.mac, onTap.mac)
  assert.deepEqual(forked, { ...source, mac: forked.mac, address: null, ports: [{ ...port, hostPort: 0, automatic: true }] })
})

test('a restored instance keeps its network; under another hypervisor it has what that can do, unless a limit would be lost', () => {
  assert.equal(restoredNetwork(both, { ...onTap, address: '10.100.0.9' }, onTap), onTap)
  assert.equal(restoredNetwork(both, null, onTap), null)
  const unlimited = { ...onTap, uploadBytesPerSecond: null }
  assert.deepEqual(restoredNetwork(userOnly, onTap, unlimited), { kind: 'user', mac: onTap.mac, ports: [port] })
  assert.throws(() => restoredNetwork(userOnly, onTap, onTap), refused('not_supported', /bandwidth_upload/))
  assert.throws(() => restoredNetwork(userOnly, onTap, { ...unlimited, egress: 'all' }), refused('not_supported', /network\.egress/))
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

test('programs are told of the proxy in both spellings of each variable, but for those that the instance has in either', async () => {
  await using world = await testContext({ hostNetwork: aHostNetwork() })
  const variables = (own: Readonly<Record<string, string>>, egress: 'all' | null = 'all'): Readonly<Record<string, string>> =>
    proxyVariablesOf(world.context, { network: { ...onTap, egress } }, own)
  const url = 'http://10.100.0.1:4974'
  assert.deepEqual(variables({ OTHER: 'x' }), {
    ...{ http_proxy: url, HTTP_PROXY: url, https_proxy: url, HTTPS_PROXY: url },
    ...{ no_proxy: 'localhost,127.0.0.1,10.100.0.1', NO_PROXY: 'localhost,127.0.0.1,10.100.0.1' },
  })
  assert.deepEqual(Object.keys(variables({ HTTP_PROXY: 'mine', no_proxy: '' })), ['https_proxy', 'HTTPS_PROXY'])
  assert.deepEqual(variables({}, null), {})
  assert.deepEqual(proxyVariablesOf(world.context, { network: { kind: 'user', mac: onTap.mac, ports: [] } }, {}), {})
})
