// What the host is found to have, and how it is told.

import assert from 'node:assert/strict'
import { statfsSync } from 'node:fs'
import { availableParallelism, tmpdir, totalmem } from 'node:os'
import { test } from 'node:test'
import { hostResources } from '../api/schemas/resources.ts'
import { Capacity, nothingHeld, type Holding } from '../platform/capacity.ts'
import { loadConfig } from '../platform/config.ts'
import { bytesOf, defaultLink } from './host.ts'
import { createResourceService, suppliesOf } from './index.ts'
import type { ResourceOptions } from './service.ts'
import type { ResourceService } from './types.ts'

const GIB = 1024 ** 3
/** Whatever is configured on the host that the test runs on. */
const noFile = { config: '/dev/null' }

type Parts = NonNullable<ReturnType<ResourceOptions['instanceOf']>>
const bare: Parts = { volumes: [], diskBytesPerSecond: null, network: { kind: 'user' } }

async function serviceWith(
  environment: Record<string, string>,
  held: readonly Holding[] = [],
  instances: Readonly<Record<string, Parts>> = {},
) {
  const settings = await loadConfig(noFile, environment)
  const capacity = new Capacity(() => suppliesOf(tmpdir(), settings))
  capacity.count(() => held)
  return createResourceService({
    capacity,
    settings,
    instanceOf: (id) => instances[id],
    reclaim: () => Promise.reject(new Error('nobody is asked')),
  })
}

function told(service: ResourceService): ReturnType<ResourceService['get']> {
  return hostResources.parse(service.get())
}

test('processors, memory and the file system are what the kernel says, promised as often as the settings allow', async () => {
  const { cpu, memory, disk, disk_io: diskIo } = told(await serviceWith({ OVERSUBSCRIPTION__CPU: '0.5', OVERSUBSCRIPTION__DISK: '3' }))
  const cores = availableParallelism()
  assert.deepEqual(cpu, {
    ...{ type: 'cpu', capacity: cores, effective_limit: Math.floor(cores / 2), allocated: 0, available: Math.floor(cores / 2) },
    ...{ oversub_ratio: 0.5, source: 'detected' },
  })
  assert.ok(memory.capacity > 0 && memory.capacity <= totalmem())
  const { blocks, bsize } = statfsSync(tmpdir())
  assert.deepEqual([disk.capacity, disk.effective_limit, disk.source], [blocks * bsize, blocks * bsize * 3, 'detected'])
  assert.equal(diskIo, undefined)
})

test('what is configured comes before what is seen', async () => {
  const settings = { CAPACITY__DISK: '100GB', CAPACITY__NETWORK: '1Gbps', CAPACITY__DISK_IO: '500MB/s', OVERSUBSCRIPTION__NETWORK: '1' }
  const { disk, network, disk_io: diskIo } = told(await serviceWith(settings))
  assert.deepEqual([disk.capacity, disk.source], [100 * GIB, 'configured'])
  assert.deepEqual([network.capacity, network.effective_limit, network.available, network.source], [125e6, 125e6, 125e6, 'configured'])
  assert.deepEqual([diskIo?.capacity, diskIo?.allocated, diskIo?.source], [500 * 1024 ** 2, 0, 'configured'])
})

test('the defaults let a host of two processors and 24 GiB have fifty instances of the default size', async () => {
  const { oversubscription } = await loadConfig(noFile, {})
  assert.ok(50 * 2 <= 2 * oversubscription.cpu)
  assert.ok(50 * GIB <= 24 * GIB * oversubscription.memory)
  assert.ok(50 * 10 * GIB <= 20 * GIB * oversubscription.disk)
})

test('what is promised adds up: processors and memory by instance, the disk also by image, cache and volume', async () => {
  const held: Holding[] = [
    { kind: 'instance', id: 'a', name: 'web', cpu: 2, memory: GIB, disk: 10 * GIB },
    { kind: 'instance', id: 'b', name: 'db', cpu: 0, memory: 0, disk: 5 * GIB },
    { ...nothingHeld, kind: 'volume', id: 'v', name: 'data', disk: 3 * GIB },
    { ...nothingHeld, kind: 'volume', id: 'w', name: 'more', disk: 4 * GIB },
    { ...nothingHeld, kind: 'image', id: 'sha256:0', name: 'sha256:0', disk: 7 },
    { ...nothingHeld, kind: 'cache', id: 'registry', name: 'registry', disk: 11 },
  ]
  const a: Parts = { ...bare, volumes: [{ volumeId: 'v' }, { volumeId: 'gone' }] }
  const { cpu, memory, disk, allocations, disk_breakdown: parts } = told(await serviceWith({ CAPACITY__DISK: '1TB' }, held, { a, b: bare }))
  assert.deepEqual([cpu.allocated, memory.allocated, disk.allocated], [2, GIB, 22 * GIB + 18])
  assert.equal(disk.available, disk.effective_limit - disk.allocated)
  assert.deepEqual(parts, { images_bytes: 7, oci_cache_bytes: 11, volumes_bytes: 7 * GIB, overlays_bytes: 15 * GIB })
  assert.deepEqual(allocations, [
    { instance_id: 'a', instance_name: 'web', cpu: 2, memory_bytes: GIB, disk_bytes: 13 * GIB },
    { instance_id: 'b', instance_name: 'db', cpu: 0, memory_bytes: 0, disk_bytes: 5 * GIB },
  ])
})

test('an instance is told with the limits that it has, in bytes a second, and promises nothing by them', async () => {
  const held: Holding[] = ['a', 'b'].map((id) => ({ ...nothingHeld, kind: 'instance', id, name: id }))
  const a: Parts = {
    ...bare,
    diskBytesPerSecond: 50 * 1024 ** 2,
    network: { kind: 'tap', downloadBytesPerSecond: 12.5e6, uploadBytesPerSecond: null },
  }
  const b: Parts = { ...bare, network: { kind: 'tap', downloadBytesPerSecond: null, uploadBytesPerSecond: 0.6 } }
  const { allocations, network } = told(await serviceWith({ CAPACITY__NETWORK: '1Gbps' }, held, { a, b }))
  const nothing = { cpu: 0, memory_bytes: 0, disk_bytes: 0 }
  assert.deepEqual(allocations, [
    { instance_id: 'a', instance_name: 'a', ...nothing, network_download_bps: 12_500_000, disk_io_bps: 50 * 1024 ** 2 },
    { instance_id: 'b', instance_name: 'b', ...nothing, network_upload_bps: 1 },
  ])
  assert.equal(network.allocated, 0)
})

test('where more is promised than there is, nothing is available', async () => {
  const held: Holding[] = [{ ...nothingHeld, kind: 'volume', id: 'v', name: 'data', disk: 3 * GIB }]
  const { disk } = told(await serviceWith({ CAPACITY__DISK: '1GB', OVERSUBSCRIPTION__DISK: '1' }, held))
  assert.deepEqual([disk.effective_limit, disk.allocated, disk.available], [GIB, 3 * GIB, 0])
})

test('the link of the default route is found in the table of the kernel, and its speed where there is one', () => {
  const head = 'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n'
  const local = 'eth1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n'
  assert.equal(defaultLink(`${head}${local}eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n`), 'eth0')
  assert.equal(defaultLink(`${head}${local}`), undefined)
  assert.equal(defaultLink(''), undefined)
  assert.deepEqual(['1000\n', '-1\n', '', 'fast'].map(bytesOf), [125_000_000, undefined, undefined, undefined])
})
