// What a body of the wire becomes for the flows: bytes, times, ports, volumes by id; and the refusals that a schema can't make.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aRecord, someVolumes, testContext } from '../../tests/support/instance-context.ts'
import { isHypemanError, type ErrorCode } from '../api/errors.ts'
import { createInstanceBody, updateInstanceBody } from '../api/schemas/instance-requests.ts'
import { createSealer } from '../platform/sealing.ts'
import { hostPlatform } from './capabilities.ts'
import type { CreateInstance } from './create.ts'
import type { InstanceRecord } from './record.ts'
import { changeOf, createRequestOf, expiryOf } from './requests.ts'

const sealer = createSealer(['the key of tests'])

async function requestOf(body: Record<string, unknown>): Promise<CreateInstance> {
  await using world = await testContext({ volumes: someVolumes({ resolve: (ref) => `id-of-${ref}` }) })
  return createRequestOf(world.context, createInstanceBody.parse({ name: 'web', image: 'alpine', ...body }), 'tests')
}

test('a bare body gets the defaults', async () => {
  assert.deepEqual(await requestOf({}), {
    name: 'web',
    image: 'alpine',
    hypervisor: undefined,
    vcpus: 2,
    memoryBytes: 2 ** 30,
    hotplugBytes: 0,
    overlayBytes: 10 * 2 ** 30,
    diskBytesPerSecond: undefined,
    env: {},
    secrets: [],
    owner: 'tests',
    tags: {},
    entrypoint: undefined,
    cmd: undefined,
    volumes: [],
    network: { ports: [], downloadBytesPerSecond: undefined, uploadBytesPerSecond: undefined, egress: null },
    skipGuestAgent: false,
    expiresAt: null,
    restartPolicy: null,
    healthCheck: null,
    autoStandby: null,
    snapshotPolicy: null,
  })
})

test('sizes are bytes, 1024-based', async () => {
  const { memoryBytes, hotplugBytes, overlayBytes } = await requestOf({ size: '192MB', hotplug_size: '1.5 GB', overlay_size: '512' })
  assert.deepEqual([memoryBytes, hotplugBytes, overlayBytes], [192 * 2 ** 20, 1.5 * 2 ** 30, 512])
})

test('a disk rate is bytes per second; 0 is no limit, nothing says none; what no guest could boot with, and what is no rate, is refused', async () => {
  const rateOf = async (text: string): Promise<number | null | undefined> => (await requestOf({ disk_io_bps: text })).diskBytesPerSecond
  assert.deepEqual(await Promise.all(['1MB/s', '1.5 GBps', '100MB'].map(rateOf)), [2 ** 20, 1.5 * 2 ** 30, 100 * 2 ** 20])
  assert.deepEqual(await Promise.all(['', '0', '0MB/s'].map(rateOf)), [undefined, null, null])
  for (const text of ['1023KB/s', '1', '1PB/s']) await assert.rejects(rateOf(text), (error) => isHypemanError(error, 'invalid_disk_io_bps'))
})

test('volumes are named by their ids, and are written to unless the body says otherwise', async () => {
  const volumes = [
    { volume_id: 'data', mount_path: '/data' },
    { volume_id: 'site', mount_path: '/site', readonly: true },
  ]
  assert.deepEqual((await requestOf({ volumes })).volumes, [
    { volumeId: 'id-of-data', mountPath: '/data', readOnly: false, layerBytes: null },
    { volumeId: 'id-of-site', mountPath: '/site', readOnly: true, layerBytes: null },
  ])
})

test('a layer over a volume has a size, and a volume that is only read below it', async () => {
  const mount = { volume_id: 'data', mount_path: '/data', overlay: true }
  const { volumes } = await requestOf({ volumes: [{ ...mount, readonly: true, overlay_size: '64MB' }] })
  assert.deepEqual(volumes, [{ volumeId: 'id-of-data', mountPath: '/data', readOnly: true, layerBytes: 64 * 2 ** 20 }])
  const off = await requestOf({ volumes: [{ ...mount, overlay: false, overlay_size: '64MB' }] })
  assert.equal(off.volumes[0]?.layerBytes, null)
  for (const [wrong, code] of [
    [{ overlay_size: '64MB' }, 'invalid_request'],
    [{ overlay_size: '64MB', readonly: false }, 'invalid_request'],
    [{ readonly: true }, 'invalid_overlay_size'],
    [{ readonly: true, overlay_size: '1MB' }, 'invalid_overlay_size'],
    [{ readonly: true, overlay_size: '1000GB' }, 'invalid_overlay_size'],
  ] as const)
    await assert.rejects(requestOf({ volumes: [{ ...mount, ...wrong }] }), (error) => isHypemanError(error, code))
})

test('a port without a host port is chosen by the server; one with a host port is not', async () => {
  const ports = [{ guest_port: 80 }, { guest_port: 53, host_port: 5353, protocol: 'udp', host_address: '0.0.0.0' }]
  assert.deepEqual((await requestOf({ network: { ports } })).network?.ports, [
    { guestPort: 80, hostPort: 0, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: true },
    { guestPort: 53, hostPort: 5353, protocol: 'udp', hostAddress: '0.0.0.0', automatic: false },
  ])
})

test('limits of bandwidth are bytes per second of bits or bytes, 0 is no limit, absent or empty says none; what nothing could be told by is refused by its field', async () => {
  const limitsOf = async (bandwidth_download?: string, bandwidth_upload?: string) => {
    const { network } = await requestOf({ network: { bandwidth_download, bandwidth_upload } })
    return [network?.downloadBytesPerSecond, network?.uploadBytesPerSecond]
  }
  assert.deepEqual(await limitsOf('1Gbps', '2MB/s'), [125_000_000, 2 * 1024 ** 2])
  assert.deepEqual(
    [await limitsOf(), await limitsOf('', '0bps')],
    [
      [undefined, undefined],
      [undefined, null],
    ],
  )
  await assert.rejects(limitsOf('1bps'), (error) => isHypemanError(error, 'invalid_bandwidth_download'))
  await assert.rejects(limitsOf('1Gbps', '9999Tbps'), (error) => isHypemanError(error, 'invalid_bandwidth_upload'))
})

test('a guest goes out by the proxy where that is enabled, and is kept from all direct TCP unless another mode is named', async () => {
  const egressOf = async (egress?: object) => (await requestOf({ network: { egress } })).network?.egress
  assert.deepEqual([await egressOf(), await egressOf({}), await egressOf({ enabled: false })], [null, null, null])
  assert.deepEqual([await egressOf({ enabled: true }), await egressOf({ enabled: true, enforcement: {} })], ['all', 'all'])
  assert.equal(await egressOf({ enabled: true, enforcement: { mode: 'http_https_only' } }), 'http_https_only')
  assert.equal(await egressOf({ enforcement: { mode: 'http_https_only' } }), null)
  await assert.rejects(
    requestOf({ network: { enabled: false, egress: { enabled: true } } }),
    (error) => isHypemanError(error, 'invalid_request') && error.message.startsWith('network.egress: '),
  )
})

test('without a network there are no ports, and to ask for both is refused', async () => {
  assert.equal((await requestOf({ network: { enabled: false } })).network, undefined)
  await assert.rejects(requestOf({ network: { enabled: false, ports: [{ guest_port: 80 }] } }), (error) => {
    assert.ok(isHypemanError(error, 'invalid_request'))
    assert.match(error.message, /^network\.ports: /)
    return true
  })
})

test('an instance of another platform than this host is refused, rather than made of this one', async () => {
  assert.equal((await requestOf({ platform: hostPlatform() })).name, 'web')
  const other = hostPlatform() === 'linux/arm64' ? 'linux/amd64' : 'linux/arm64'
  await assert.rejects(requestOf({ platform: other }), (error) => isHypemanError(error, 'invalid_platform'))
})

test('a ttl counts from now; 0s clears the end, and a body that says neither leaves it as it is', () => {
  const before = Date.now()
  const expiry = Date.parse(expiryOf({ ttl: '1h30m' }) ?? '')
  assert.ok(expiry >= before + 5_400_000 && expiry <= Date.now() + 5_400_000)
  assert.equal(expiryOf({ ttl: '0s' }), null)
  assert.equal(expiryOf({}), undefined)
})

test('an end is a time of any offset in the future, and is kept in UTC', () => {
  assert.equal(expiryOf({ expires_at: '2999-01-31T12:00:00+02:00' }), '2999-01-31T10:00:00.000Z')
})

test('an update of the environment adds to it, and says nothing of the rest; one of nothing is refused', () => {
  const record = { ...aRecord(), env: { A: '1', B: '2' } }
  assert.deepEqual(changeOf({ sealer }, { env: { B: '', C: '3' } }, 'tests')(record), { env: { A: '1', B: '', C: '3' }, secrets: [] })
  assert.throws(
    () => changeOf({ sealer }, { env: {} }, 'tests'),
    (error) => isHypemanError(error, 'invalid_request'),
  )
})

test('an end that is over is not moved any more; what else is updated does not ask for it', () => {
  const over = { ...aRecord(), expiresAt: new Date(Date.now() - 1).toISOString() }
  for (const body of [{ ttl: '1h' }, { ttl: '0s' }, { expires_at: '2999-01-31T12:00:00Z' }])
    assert.throws(
      () => changeOf({ sealer }, updateInstanceBody.parse(body), 'tests')(over),
      (error) => isHypemanError(error, 'instance_expired'),
    )
  assert.deepEqual(changeOf({ sealer }, { env: { A: '1' } }, 'tests')(over), { env: { A: '1' }, secrets: [] })
  assert.deepEqual(changeOf({ sealer }, { ttl: '0s' }, 'tests')({ ...over, expiresAt: new Date(Date.now() + 60_000).toISOString() }), {
    expiresAt: null,
  })
})

const refusals: readonly (readonly [what: string, body: Parameters<typeof expiryOf>[0], code: ErrorCode])[] = [
  ['that is over', { expires_at: new Date(Date.now() - 1).toISOString() }, 'invalid_expires_at'],
  ['before now', { ttl: '-1m' }, 'invalid_ttl'],
  ['that is no duration', { ttl: 'soon' }, 'invalid_ttl'],
]
for (const [what, body, code] of refusals)
  test(`a lifetime ${what} is refused`, () => {
    assert.throws(
      () => expiryOf(body),
      (error) => isHypemanError(error, code),
    )
  })

test('the longest of all durations still ends in a date', () => {
  assert.match(expiryOf({ ttl: '2562047h' }) ?? '', /^2\d{3}-/)
})

test('without waiting for the agent a command is no check; the host makes the others, where the network of the instance lets it', async () => {
  const [exec, tcp, http] = [{ exec: { command: ['true'] } }, { tcp: { port: 80 } }, { http: { port: 80 } }]
  const refused = (message: RegExp) => (error: unknown) => isHypemanError(error, 'invalid_health_check') && message.test(error.message)
  await assert.rejects(requestOf({ skip_guest_agent: true, health_check: exec }), refused(/guest agent/))
  assert.equal((await requestOf({ skip_guest_agent: true, health_check: tcp })).healthCheck?.probe.type, 'tcp')
  await assert.rejects(requestOf({ skip_guest_agent: true, health_check: tcp, network: { enabled: false } }), refused(/network/))

  const port = { guestPort: 80, hostPort: 8080, protocol: 'tcp', hostAddress: '127.0.0.1', automatic: false } as const
  const user = { kind: 'user', mac: '02:00:00:00:00:01', ports: [] } as const
  const tap = { ...user, kind: 'tap', address: null, downloadBytesPerSecond: null, uploadBytesPerSecond: null, egress: null } as const
  const probeAfter = (check: object, network: InstanceRecord['network'], skipGuestAgent = true): string | undefined =>
    changeOf({ sealer }, updateInstanceBody.parse({ health_check: check }), 'tests')({ ...aRecord(), skipGuestAgent, network }).healthCheck
      ?.probe.type
  assert.throws(() => probeAfter(exec, tap), refused(/guest agent/))
  assert.throws(() => probeAfter(http, null), refused(/network/))
  assert.throws(() => probeAfter(http, user), refused(/published ports alone.*80/))
  assert.throws(() => probeAfter(tcp, { ...user, ports: [port] }), refused(/always pass/))
  assert.deepEqual(
    [probeAfter(http, { ...user, ports: [port] }), probeAfter(tcp, tap), probeAfter(tcp, user, false), probeAfter(exec, user, false)],
    ['http', 'tcp', 'tcp', 'exec'],
  )
})
