// The limit of disk throughput, and the length of the disk, on a QEMU without a guest, as QEMU itself tells it: through a pivot of the disk, a restore and a fork. The limit belongs
// to the process that is started, not to the device state.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { z } from 'zod'
import { bareHost } from '../../../tests/support/bare-qemu.ts'
import type { Machine, MachineSpec } from '../driver.ts'
import { lastLayer, sizeOfLayer } from './layers.ts'
import { QemuMachine } from './machine.ts'

const host = await bareHost()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

const blocks = z.array(z.object({ device: z.string(), inserted: z.object({ bps: z.int(), iops: z.int(), group: z.string().optional() }) }))

/** Of each disk: its name, its limit in bytes per second, and with which it shares that. */
async function limitsOf(machine: Machine): Promise<(readonly [device: string, bps: number, group: string | undefined])[]> {
  assert.ok(machine instanceof QemuMachine)
  return blocks.parse(await machine.command('query-block')).map(({ device, inserted }) => [device, inserted.bps, inserted.group] as const)
}

/** A machine that goes on from a payload, with another limit than whatever wrote it. */
async function forkOf(payload: string, diskBytesPerSecond: number | null): Promise<{ readonly fork: Machine; readonly spec: MachineSpec }> {
  const spec = { ...host.spec(await host.directory()), diskBytesPerSecond }
  await driver.materialise(payload, spec.directory, true)
  const fork = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await fork.resume()
  return { fork, spec }
}

test('a machine has the limit that it is started with, whatever its memory was written under, and keeps it when its disk gets another layer', async () => {
  const { machine, spec } = await host.start()
  assert.deepEqual(await limitsOf(machine), [['system', 0, undefined]])
  const unlimited = await host.directory()
  await memory.capture(machine, spec, unlimited, never)

  const limited = await forkOf(unlimited, 5_000_000)
  assert.deepEqual(await limitsOf(limited.fork), [['system', 5_000_000, 'disks']])
  const payload = await host.directory()
  await memory.capture(limited.fork, limited.spec, payload, never)
  assert.deepEqual(await limitsOf(limited.fork), [['system', 5_000_000, 'disks']], 'after the pivot')

  assert.deepEqual(await limitsOf((await forkOf(payload, null)).fork), [['system', 0, undefined]])
  assert.deepEqual(await limitsOf((await forkOf(payload, 7_000_000)).fork), [['system', 7_000_000, 'disks']])
})

const sizes = z.array(z.object({ device: z.string(), inserted: z.object({ image: z.object({ 'virtual-size': z.int() }) }) }))

async function bytesOf(machine: Machine): Promise<number | undefined> {
  assert.ok(machine instanceof QemuMachine)
  const disks = sizes.parse(await machine.command('query-block'))
  return disks.find(({ device }) => device === 'system')?.inserted.image['virtual-size']
}

test('a disk becomes longer under a machine that runs, never shorter, and so it is for what comes after: the next layer, forks, and starts', async () => {
  const { machine, spec } = await host.start()
  const grow = driver.resize?.disk ?? assert.fail('its disks do not grow')
  const before = (await bytesOf(machine)) ?? assert.fail('it has no disk')
  const wanted = before + 64 * 1024 ** 2
  await grow(machine, wanted, never)
  assert.equal(await bytesOf(machine), wanted)
  await grow(machine, before, never)
  assert.equal(await bytesOf(machine), wanted)
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  assert.equal(await bytesOf(machine), wanted, 'after the pivot')
  const { fork, spec: forked } = await forkOf(payload, null)
  assert.equal(await bytesOf(fork), wanted)
  await fork.kill()
  await memory.discardMemory(forked.directory)
  const disk = (): number => sizeOfLayer(forked.directory, lastLayer(forked.directory))
  {
    await using _taken = await driver.growDisk(forked.directory, 2 * wanted)
    assert.equal(disk(), 2 * wanted)
  }
  assert.equal(disk(), wanted)
  await driver.growDisk(forked.directory, wanted + 1024 ** 2)
  await driver.growDisk(forked.directory, wanted)
  assert.equal(disk(), wanted + 1024 ** 2)
})
