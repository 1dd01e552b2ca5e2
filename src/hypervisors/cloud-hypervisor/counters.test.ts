// What is told of a machine's traffic, whatever its VMM answers.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { paperCloudHypervisor, tell } from '../../../tests/support/paper-cloud-hypervisor.ts'
import { trafficOf } from './counters.ts'

const host = await paperCloudHypervisor()
after(() => host[Symbol.asyncDispose]())

test('traffic is the sum over all devices of a kind', () => {
  const counters = {
    rootfs: { read_bytes: 100, write_bytes: 0, read_latency_min: 2 ** 64 },
    system: { read_bytes: 20, write_bytes: 3, read_latency_min: 2 ** 64 },
    net: { rx_bytes: 7, tx_bytes: 5, rx_frames: 1, tx_frames: 1 },
    rng: {},
  }
  assert.deepEqual(trafficOf(counters), {
    network: { receivedBytes: 7, sentBytes: 5 },
    disks: { readBytes: 120, writtenBytes: 3 },
  })
})

for (const [what, device] of [
  ['missing', { rx_bytes: 7 }],
  ['larger than a number can be exactly', { rx_bytes: 7, tx_bytes: 2 ** 64 }],
  ['below zero', { rx_bytes: -1, tx_bytes: 7 }],
  ['text', { rx_bytes: '7', tx_bytes: 7 }],
  ['nothing', { rx_bytes: null, tx_bytes: 7 }],
] as const)
  test(`a counter that is ${what} leaves out its kind, and the other kind is told`, () => {
    const disk = { read_bytes: 1, write_bytes: 2 }
    assert.deepEqual(trafficOf({ good: { rx_bytes: 1, tx_bytes: 1 }, bad: device, disk }), { disks: { readBytes: 1, writtenBytes: 2 } })
  })

test('sums that a number does not hold exactly are left out', () => {
  const half = { read_bytes: 2 ** 52, write_bytes: 0 }
  assert.deepEqual(trafficOf({ one: half, other: half }), {})
})

test('whatever devices count, what is told is a count of bytes', () => {
  const name = fc.constantFrom('rx_bytes', 'tx_bytes', 'read_bytes', 'write_bytes', 'read_ops')
  const devices = fc.dictionary(fc.string(), fc.dictionary(name, fc.oneof(fc.maxSafeNat(), fc.double(), fc.jsonValue())))
  fc.assert(
    fc.property(devices, (counters) => {
      for (const kind of Object.values(trafficOf(counters)))
        for (const value of Object.values<unknown>(kind)) assert.ok(typeof value === 'number' && Number.isSafeInteger(value) && value >= 0)
    }),
  )
})

test('a process counts from its own beginning: a fork does not begin with what its source has moved', async () => {
  const { machine, spec } = await host.start()
  const { signal } = new AbortController()
  await tell(machine, 'disk one')
  await tell(machine, 'disk two')
  await tell(machine, 'disk')
  assert.deepEqual(await machine.traffic?.(signal), { disks: { readBytes: 4096, writtenBytes: 8192 } })
  const payload = await host.directory()
  await host.memory.capture(machine, spec, payload, signal)
  const { machine: fork } = await host.fork(payload)
  assert.deepEqual(await fork.traffic?.(signal), { disks: { readBytes: 0, writtenBytes: 0 } })
})
