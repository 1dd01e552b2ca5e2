// The driver on the stand-in with guests of paper: what is frozen, what runs again, and what is left when a step fails.

import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { filesIn, paperCloudHypervisor, tell } from '../../../tests/support/paper-cloud-hypervisor.ts'
import type { Machine } from '../driver.ts'
import { savedConfig } from './images.ts'
import { CloudHypervisorMachine } from './machine.ts'

const host = await paperCloudHypervisor()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

const image = ['config.json', 'memory-ranges', 'memory.json', 'state.json']

test('a capture freezes memory and disk of one instant, and the machine goes on; forks share neither', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 before')
  await tell(machine, 'disk before')
  const payload = await host.directory()
  const report = await memory.capture(machine, spec, payload, never)
  assert.equal(report.notResumed, undefined)
  assert.match(report.note ?? '', /stood still/)
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(payload), [...image, 'disk-1.raw'].toSorted())
  const { size, blocks } = await stat(path.join(payload, 'memory-ranges'))
  assert.equal(size, 8 * 1024 ** 2)
  assert.equal(blocks * 512, report.memoryBytes)
  assert.ok(report.memoryBytes <= 5 * 4096, 'what the guest never wrote are holes')
  await tell(machine, 'memory 100 after')
  await tell(machine, 'disk after')

  for (const name of ['one', 'other']) {
    const fork = await host.fork(payload)
    assert.equal(await tell(fork.machine, 'memory 100'), 'before')
    assert.equal(await tell(fork.machine, 'disk'), 'before')
    await tell(fork.machine, `memory 100 ${name}`)
    await tell(fork.machine, `disk ${name}`)
    assert.equal(await tell(fork.machine, 'memory 100'), name)
    assert.equal(await tell(fork.machine, 'disk'), name)
    assert.equal(await memory.holdsMemory(fork.spec.directory), false)
  }
  assert.equal(await tell(machine, 'disk'), 'after')
})

for (const [way, by] of [
  ['on demand', memory],
  ['as a whole', host.driverWith({ whyNotOnDemand: 'a test' }).memory ?? memory],
] as const)
  test(`what a machine restored ${way} never asked for is in its snapshots, and what it zeroed is zeros there`, async () => {
    const { machine, spec } = await host.start()
    for (const page of [100, 101, 102]) await tell(machine, `memory ${page} first`)
    const payload = await host.directory()
    await memory.capture(machine, spec, payload, never)

    const fork = await host.fork(payload, {}, by)
    await tell(fork.machine, 'memory 101 second')
    await tell(fork.machine, 'memory 102 ')
    const again = await host.directory()
    await by.capture(fork.machine, fork.spec, again, never)
    await tell(fork.machine, 'memory 103 third')
    const oncemore = await host.directory()
    await by.capture(fork.machine, fork.spec, oncemore, never)

    const pages = async (of: string): Promise<string[]> => {
      const next = await host.fork(of, {}, by)
      const found: string[] = []
      for (const page of [7, 100, 101, 102, 103]) found.push(await tell(next.machine, `memory ${page}`))
      return found
    }
    assert.deepEqual(await pages(again), ['boot 7', 'first', 'second', '', ''])
    assert.deepEqual(await pages(oncemore), ['boot 7', 'first', 'second', '', 'third'])
    assert.deepEqual(await pages(payload), ['boot 7', 'first', 'first', 'first', ''])
  })

test('a suspended machine can be ended and restored in place, again and again', async () => {
  const { machine, spec } = await host.start()
  let now: Machine = machine
  for (const round of [1, 2, 3]) {
    await tell(now, `memory ${100 + round} ${round}`)
    await tell(now, `disk ${round}`)
    await now.pause()
    await memory.suspend(now, spec, never)
    assert.equal(await now.status(), 'paused')
    assert.equal(await memory.holdsMemory(spec.directory), true)
    await now.kill()
    now = host.owns(await memory.restore(spec, await driver.stamp(), never))
    assert.equal(await now.status(), 'paused')
    await now.resume()
    assert.equal(await memory.holdsMemory(spec.directory), true, 'until it is consumed')
    assert.equal(await tell(now, 'disk'), String(round))
    await memory.consumeMemory(spec.directory)
    assert.equal(await memory.holdsMemory(spec.directory), false)
    assert.deepEqual(await filesIn(spec.directory), [`disk-${1 + round}.raw`, 'memory.base'])
  }
  const found: string[] = []
  for (const page of [7, 101, 102, 103]) found.push(await tell(now, `memory ${page}`))
  assert.deepEqual(found, ['boot 7', '1', '2', '3'])
})

test('a restored guest that is given up leaves the image and its disk as they were', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'disk kept')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const restored = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await restored.resume()
  await tell(restored, 'disk lost')
  await restored.kill()
  assert.equal(await memory.holdsMemory(spec.directory), true)
  const again = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await again.resume()
  assert.equal(await tell(again, 'disk'), 'kept')
  await again.kill()
  await memory.discardMemory(spec.directory)
  await memory.discardMemory(spec.directory)
  assert.deepEqual(await filesIn(spec.directory), ['disk-1.raw'])
  const cold = host.owns(await driver.boot(spec, never))
  assert.equal(await tell(cold, 'disk'), 'kept')
  assert.equal(await tell(cold, 'memory 7'), 'boot 7')
})

test('a machine that goes on after it was suspended drops the image, since its disk changes: in this server process or the next', async () => {
  const { machine, spec } = await host.start()
  const before = await filesIn(spec.directory)
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
  assert.deepEqual(await filesIn(spec.directory), before)

  await machine.pause()
  await memory.suspend(machine, spec, never)
  machine.release()
  const adopted = await driver.adopt(spec, machine.process)
  assert.ok(adopted)
  await adopted.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
})

test('a restored machine that a new server process makes run keeps the image that it was started from', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const restored = host.owns(await memory.restore(spec, await driver.stamp(), never))
  const adopted = await driver.adopt(spec, restored.process)
  assert.ok(adopted)
  await adopted.resume()
  assert.equal(await memory.holdsMemory(spec.directory), true)
})

test('a capture that the VMM refuses leaves the machine running and its directory as it was', async () => {
  const { machine, spec } = await host.start()
  const before = await filesIn(spec.directory)
  await assert.rejects(memory.capture(machine, spec, path.join(spec.directory, 'missing'), never), /refused vm.snapshot .*No such file/)
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(spec.directory), before)
  assert.ok(machine instanceof CloudHypervisorMachine)
  machine.vmm.snapshot = () => Promise.reject(new Error('a fault'))
  await machine.pause()
  await assert.rejects(memory.suspend(machine, spec, never), /a fault/)
  assert.equal(await machine.status(), 'paused')
  assert.deepEqual(await filesIn(spec.directory), before)
})

test('an abort while memory is saved ends the capture, and the machine runs', async () => {
  const { machine, spec } = await host.start()
  const abort = new AbortController()
  assert.ok(machine instanceof CloudHypervisorMachine)
  const snapshot = machine.vmm.snapshot.bind(machine.vmm)
  machine.vmm.snapshot = async (...call) => {
    abort.abort(new Error('enough'))
    await snapshot(...call)
  }
  await assert.rejects(memory.capture(machine, spec, await host.directory(), abort.signal), /enough/)
  assert.equal(await machine.status(), 'running')
})

test('a machine that can not be made to run again does not cost the image, and the report says so', async () => {
  const { machine, spec } = await host.start()
  assert.ok(machine instanceof CloudHypervisorMachine)
  const command = machine.vmm.command.bind(machine.vmm)
  machine.vmm.command = (name, signal) => (name === 'resume' ? Promise.reject(new Error('a fault')) : command(name, signal))
  const payload = await host.directory()
  const report = await memory.capture(machine, spec, payload, never)
  assert.match(report.notResumed ?? '', /a fault/)
  assert.equal(await memory.holdsMemory(payload), true)
})

test('a memory image goes on only under the version that wrote it, and nothing is touched before', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const before = await filesIn(spec.directory)
  const stamp = await driver.stamp()
  for (const other of [{ version: '51.1' }, { machineType: 'other' }, { accelerator: 'mshv' }, { hypervisor: 'qemu' }] as const)
    await assert.rejects(
      memory.restore(spec, { ...stamp, ...other }, never),
      (error) => isHypemanError(error, 'incompatible_version') && /was written by .*here is cloud-hypervisor 52.0/.test(error.message),
    )
  assert.deepEqual(await filesIn(spec.directory), before)
})

test('an image of another machine, or one that is damaged, is refused with what is wrong', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const before = await filesIn(spec.directory)
  const stamp = await driver.stamp()
  for (const [change, words] of [
    [{ vcpus: 2 }, /vCPUs are 1 there and 2 here/],
    [{ memoryMib: 16 }, /bytes of memory/],
    [{ disks: [] }, /disks are rootfs, system there and system here/],
    [{ network: { kind: 'tap', mac: '02:00:00:00:00:01', device: 'tap0' } }, /network devices are 0 there and 1 here/],
  ] as const)
    await assert.rejects(
      memory.restore({ ...spec, ...change }, stamp, never),
      (error) => isHypemanError(error, 'conflict') && words.test(error.message),
    )
  const config = path.join(spec.directory, 'config.json')
  const text = await readFile(config, 'utf8')
  for (const damaged of ['', text.slice(0, 40), '{"disks": 7}']) {
    await writeFile(config, damaged)
    await assert.rejects(memory.restore(spec, stamp, never), (error) => isHypemanError(error, 'corrupt_snapshot'))
  }
  await writeFile(config, text)
  await writeFile(path.join(spec.directory, 'memory-ranges'), 'short')
  await assert.rejects(
    memory.restore(spec, stamp, never),
    (error) => isHypemanError(error, 'corrupt_snapshot') && /instead of/.test(error.message),
  )
  assert.deepEqual(await filesIn(spec.directory), before)
})

test('a fork has paths and limits of its own, and what else was saved stays', async () => {
  const { machine, spec } = await host.start({ diskBytesPerSecond: 5_000_000 })
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  const saved = await savedConfig(payload)
  await writeFile(
    path.join(payload, 'config.json'),
    JSON.stringify({ ...saved, pvpanic: true, disks: saved.disks.map((disk) => ({ ...disk, path: '/elsewhere', direct: false })) }),
  )
  const { machine: fork, spec: other } = await host.fork(payload, { diskBytesPerSecond: null })
  const again = await host.directory()
  await memory.capture(fork, other, again, never)
  const { disks, rate_limit_groups: groups, pvpanic, vsock } = await savedConfig(again)
  assert.deepEqual(
    disks.map(({ id, path: file, rate_limit_group: group, direct }) => [id, file, group, direct]),
    [
      ['rootfs', host.spec('').disks[0]?.path, null, false],
      ['system', 'disk-2.raw', null, false],
    ],
  )
  assert.deepEqual([groups, pvpanic, vsock.socket], [null, true, 'vsock.sock'])
})
