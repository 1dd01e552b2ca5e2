// Machines that are made larger while they run, on the stand-in with guests of paper: what the VMM says they have, what is refused, and what is saved of them.

import assert from 'node:assert/strict'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { paperCloudHypervisor, tell } from '../../../tests/support/paper-cloud-hypervisor.ts'

const host = await paperCloudHypervisor()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal
const { machine: grows = assert.fail('its machines do not grow'), disk: growDisk = assert.fail('its disks do not grow') } =
  driver.resize ?? assert.fail('it can not resize')

const page = (mib: number): number => (mib * 1024 ** 2) / 4096

test('what a machine was given is what the VMM says it has, and in its snapshots; also what it was given after it was restored on demand', async () => {
  const { machine, spec } = await host.start({ largest: { vcpus: 2, memoryMib: 8 + 2 * 128 } })
  assert.deepEqual(await grows.size(machine, never), { vcpus: 1, memoryMib: 8 })
  await grows.grow(machine, { vcpus: 2, memoryMib: 136 }, never)
  assert.deepEqual(await grows.size(machine, never), { vcpus: 2, memoryMib: 136 })
  await tell(machine, `memory ${page(100)} plugged`)
  await tell(machine, `memory 100 booted`)
  const first = await host.directory()
  const grown = { ...spec, vcpus: 2, memoryMib: 136 }
  await memory.capture(machine, grown, first, never)

  const fork = await host.fork(first, { vcpus: 2, memoryMib: 136 })
  assert.deepEqual(await grows.size(fork.machine, never), { vcpus: 2, memoryMib: 136 })
  await grows.grow(fork.machine, { vcpus: 2, memoryMib: 264 }, never)
  await tell(fork.machine, `memory ${page(200)} later`)
  const second = await host.directory()
  await memory.capture(fork.machine, { ...fork.spec, memoryMib: 264 }, second, never)
  assert.equal((await stat(path.join(second, 'memory-ranges'))).size, 264 * 1024 ** 2)

  const last = await host.fork(second, { vcpus: 2, memoryMib: 264 })
  const found: string[] = []
  for (const at of [100, page(100), page(200), page(263)]) found.push(await tell(last.machine, `memory ${at}`))
  assert.deepEqual(found, ['booted', 'plugged', 'later', ''])
  await assert.rejects(host.fork(first, { vcpus: 1, memoryMib: 136 }), (error) => isHypemanError(error, 'conflict'), 'another size')
})

test('more than a machine was started with room for is refused, and it keeps what it has', async () => {
  const { machine } = await host.start({ largest: { vcpus: 1, memoryMib: 8 + 128 } })
  for (const wanted of [
    { vcpus: 2, memoryMib: 8 },
    { vcpus: 1, memoryMib: 8 + 20 * 128 },
  ])
    await assert.rejects(grows.grow(machine, wanted, never), (error) => isHypemanError(error, 'conflict') && /stop/.test(error.message))
  assert.deepEqual(await grows.size(machine, never), { vcpus: 1, memoryMib: 8 })
  await tell(machine, 'memory 7 goes on')
})

test('a disk becomes longer under a machine that runs, never shorter, and starts and copies have it so', async () => {
  const { machine, spec } = await host.start()
  const disk = path.join(spec.directory, 'disk-1.raw')
  await tell(machine, 'disk kept')
  for (const [asked, has] of [
    [12, 12],
    [10, 12],
    [13, 13],
  ] as const) {
    await growDisk(machine, asked * 1024 ** 2, never)
    assert.equal((await stat(disk)).size, has * 1024 ** 2)
  }
  assert.equal(await tell(machine, 'disk'), 'kept')
  await machine.kill()
  {
    await using _taken = await driver.growDisk(spec.directory, 16 * 1024 ** 2)
    assert.equal((await stat(path.join(spec.directory, 'disk-2.raw'))).size, 16 * 1024 ** 2)
  }
  const payload = await host.directory()
  await driver.share(spec.directory, payload, false)
  assert.equal((await stat(path.join(payload, 'disk-1.raw'))).size, 13 * 1024 ** 2)
  assert.equal(await tell(host.owns(await driver.boot(spec, never)), 'disk'), 'kept')
})
