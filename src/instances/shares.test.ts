// The share that a new instance gets of the disks' throughput and of the bandwidth: how large it is, and who has none.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { hostOf } from '../../tests/support/capacity.ts'
import { aDriver, aHostNetwork, testContext } from '../../tests/support/instance-context.ts'
import { formatBandwidth, parseBandwidth } from '../api/units.ts'
import { limitOf } from '../platform/capacity.ts'
import { loadConfig } from '../platform/config.ts'
import type { InstanceContext } from './context.ts'
import { newNetwork, type WantedNetwork } from './network.ts'
import { settingsOf } from './settings.ts'
import { bandwidthShares, diskShareOf, diskShares, shareOf } from './shares.ts'

const MIB = 1024 ** 2

const supply = (most: number) =>
  fc.record({ capacity: fc.integer({ min: 1, max: most }), ratio: fc.double({ min: 0.01, max: 200, noNaN: true }) })
const range = fc.constantFrom(diskShares, bandwidthShares)

const processorsOfHost = fc.integer({ min: 1, max: 256 })

test('shares of instances that have the host’s processors never add up to more than what may be promised, unless they are the least that one gets', () => {
  fc.assert(
    fc.property(
      supply(2 ** 40),
      processorsOfHost,
      fc.array(fc.integer({ min: 1, max: 64 }), { maxLength: 64 }),
      range,
      (rate, processors, wishes, one) => {
        let left = processors
        const fitting = wishes.filter((vcpus) => vcpus <= left && (left -= vcpus) >= 0)
        const shares = fitting.map((vcpus) => shareOf(rate, processors, vcpus, one)).filter((share) => share > one.least)
        const sum = shares.reduce((total, share) => total + share, 0)
        assert.ok(sum <= limitOf(rate), `${sum} of ${limitOf(rate)}`)
      },
    ),
  )
})

test('a share is at least what a guest can live with, never more than there is beyond that, and no smaller with more processors', () => {
  fc.assert(
    fc.property(supply(2 ** 53), processorsOfHost, fc.integer({ min: 1, max: 64 }), range, (rate, processors, vcpus, one) => {
      const share = shareOf(rate, processors, vcpus, one)
      assert.ok(Number.isSafeInteger(share) && share >= one.least && share <= Math.max(one.least, Math.min(rate.capacity, one.most)))
      assert.ok(shareOf(rate, processors, vcpus + 1, one) >= share)
    }),
  )
})

test('a share of the bandwidth reads as it is, in whole kilobits', () => {
  fc.assert(
    fc.property(supply(2 ** 40), processorsOfHost, fc.integer({ min: 1, max: 64 }), (rate, processors, vcpus) => {
      const share = shareOf(rate, processors, vcpus, bandwidthShares)
      assert.equal(parseBandwidth(formatBandwidth(share)), share)
      assert.match(formatBandwidth(share), /[GMk]bps$/)
    }),
  )
})

const both = aDriver('qemu', { networks: ['user', 'tap'], features: ['disk-io-limit'] })
const unsaid: WantedNetwork = { ports: [], downloadBytesPerSecond: undefined, uploadBytesPerSecond: undefined, egress: null }

/** What a new instance of two processors gets on a host with eight, by the server's settings. */
async function sharesOf(
  environment: Record<string, string>,
  {
    driver = both,
    wanted = unsaid,
    hostNetwork = aHostNetwork(),
  }: Partial<{
    driver: typeof both
    wanted: WantedNetwork
    hostNetwork: InstanceContext['hostNetwork']
  }> = {},
) {
  const settings = settingsOf(await loadConfig({ config: '/dev/null' }, environment))
  await using world = await testContext({ settings, hostNetwork, capacity: hostOf({ cpu: 8, memory: 0, disk: 0 }) })
  const network = await newNetwork(world.context, driver, wanted, { vcpus: 2, hostCheck: null })
  const limits = network.kind === 'tap' ? [network.downloadBytesPerSecond, network.uploadBytesPerSecond] : []
  return { disk: diskShareOf(world.context, driver, 2), kind: network.kind, limits }
}

const told = { CAPACITY__DISK_IO: '100MB/s', CAPACITY__NETWORK: '1Gbps' }

test('two of eight processors are a quarter of what may be promised of disks and, on a device of the host, of the bandwidth in each direction', async () => {
  assert.deepEqual(await sharesOf({ ...told, NETWORK__MODE: 'tap' }), { disk: 50 * MIB, kind: 'tap', limits: [62_500_000, 62_500_000] })
  const plenty = { ...told, OVERSUBSCRIPTION__DISK_IO: '100', OVERSUBSCRIPTION__NETWORK: '100', NETWORK__MODE: 'tap' }
  assert.deepEqual(await sharesOf(plenty), { disk: 100 * MIB, kind: 'tap', limits: [125_000_000, 125_000_000] })
})

test('where nobody has said how much the host has, or that it is without limit, there are no limits', async () => {
  const none = { disk: null, kind: 'tap', limits: [null, null] }
  assert.deepEqual(await sharesOf({ NETWORK__MODE: 'tap' }), none)
  assert.deepEqual(await sharesOf({ NETWORK__MODE: 'tap', CAPACITY__DISK_IO: '0', CAPACITY__NETWORK: '0' }), none)
})

test('what is asked for goes before the share, in either direction, and so does no limit at all', async () => {
  const asked = (down: number | null | undefined, up: number | null | undefined) =>
    sharesOf({ ...told, NETWORK__MODE: 'tap' }, { wanted: { ...unsaid, downloadBytesPerSecond: down, uploadBytesPerSecond: up } })
  assert.deepEqual((await asked(5_000, undefined)).limits, [5_000, 62_500_000])
  assert.deepEqual((await asked(undefined, null)).limits, [62_500_000, null])
  assert.deepEqual((await asked(null, 5_000)).limits, [null, 5_000])
})

test('a share moves nobody to a device of the host: in user mode there is none, and only what was asked for decides', async () => {
  for (const mode of ['auto', 'user'])
    assert.deepEqual(await sharesOf({ ...told, NETWORK__MODE: mode }), { disk: 50 * MIB, kind: 'user', limits: [] })
  const limited = { ...unsaid, uploadBytesPerSecond: 5_000 }
  assert.deepEqual(await sharesOf(told, { wanted: limited }), { disk: 50 * MIB, kind: 'tap', limits: [62_500_000, 5_000] })
})

test('a hypervisor that can not limit disks, and a host that can not limit bandwidth, do without', async () => {
  const without = aDriver('qemu', { networks: ['tap'], features: [] })
  const hostNetwork = aHostNetwork({ whyUnlimited: () => Promise.resolve('no tc here') })
  assert.deepEqual(await sharesOf(told, { driver: without, hostNetwork }), { disk: null, kind: 'tap', limits: [null, null] })
})
