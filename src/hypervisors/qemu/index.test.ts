// The driver on a QEMU without a guest: what is frozen, what runs again, and what is left when a step fails.

import assert from 'node:assert/strict'
import { readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { isAlive } from '../../platform/process.ts'
import { bareHost } from '../../../tests/support/bare-qemu.ts'
import { run } from '../../../tests/support/command.ts'
import { checkChain, files, startFaulty } from '../../../tests/support/faulty-qemu.ts'
import { diskMissing, mountDisk } from '../../../tests/support/loop-disk.ts'
import { addLayer, layerName } from './layers.ts'
import { readWholeManifest } from './memory.ts'

const host = await bareHost()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

const wholeImage = ['device.state', 'disk-0.raw', 'disk-1.qcow2', 'memory-1.base', 'memory.json']

test('a capture freezes memory, devices and disk, and the machine goes on over a layer of its own', async () => {
  const { machine, spec } = await host.start()
  const target = await host.directory()
  const report = await memory.capture(machine, spec, target, never)
  assert.ok(report.memoryBytes > 0 && report.pausedMs > 0)
  assert.equal(report.notResumed, undefined)
  assert.equal(await machine.status(), 'running')
  assert.equal((await machine.activeLayer()).number, 2)
  assert.deepEqual(await files(target), wholeImage)
  await checkChain(target, 1)
  assert.equal((await stat(path.join(target, layerName(1)))).nlink, 2)
  assert.equal((await stat(path.join(spec.directory, layerName(2)))).nlink, 1)

  const second = await host.directory()
  await memory.capture(machine, spec, second, never)
  assert.equal((await machine.activeLayer()).number, 3)
  assert.deepEqual((await files(second)).includes('disk-2.qcow2'), true)
})

test('what was captured starts any number of machines, which come up paused, each over an empty layer of its own', async () => {
  const { machine, spec } = await host.start()
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  const before = await files(payload)
  for (const directory of [await host.directory(), await host.directory()]) {
    await driver.materialise(payload, directory, true)
    assert.deepEqual(await files(directory), [...wholeImage, 'disk-2.qcow2'].toSorted())
    const { ino } = await stat(path.join(directory, layerName(2)))
    const fork = host.owns(await memory.restore(host.spec(directory), await driver.stamp(), never))
    assert.equal(await fork.status(), 'paused')
    assert.equal((await stat(path.join(directory, layerName(2)))).ino, ino, 'the layer made with the directory is used')
    assert.equal(await memory.holdsMemory(directory), true)
    await fork.resume()
    assert.equal(await fork.status(), 'running')
    assert.equal(await memory.holdsMemory(directory), true, 'until it is consumed')
    await memory.consumeMemory(directory)
    assert.equal(await memory.holdsMemory(directory), false)
    assert.deepEqual(await files(directory), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'memory-1.base'])
    const second = await memory.capture(fork, host.spec(directory), await host.directory(), never)
    assert.ok(second.memoryBytes < 8 * 1024 ** 2, 'later generations are small')
  }
  assert.deepEqual(await files(payload), before)
})

test('a paused machine stays paused when it is captured', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.capture(machine, spec, await host.directory(), never)
  assert.equal(await machine.status(), 'paused')
})

/** Tests that leave the machine running on a sound disk share it. */
const shared = startFaulty(host)

for (const command of ['blockdev-add', 'stop', 'xen-save-devices-state', 'blockdev-snapshot'])
  for (const when of ['before', 'after'] as const)
    test(`a capture that fails ${when} ${command} leaves the machine running on a sound disk, and the next one works`, async () => {
      const { machine, spec } = await shared
      const [before, { number: active }] = [await files(spec.directory), await machine.activeLayer()]
      machine.faults = { [command]: when }
      await assert.rejects(memory.capture(machine, spec, await host.directory(), never), new RegExp(`fault ${when} ${command}`))
      machine.faults = {}
      assert.equal(await machine.status(), 'running')
      const { number } = await machine.activeLayer()
      const pivoted = command === 'blockdev-snapshot' && when === 'after'
      assert.equal(number, pivoted ? active + 1 : active)
      assert.deepEqual(await files(spec.directory), pivoted ? [...before, layerName(number)].toSorted() : before)
      await checkChain(spec.directory, number)

      const target = await host.directory()
      await memory.capture(machine, spec, target, never)
      assert.equal((await machine.activeLayer()).number, number + 1)
      await checkChain(target, number)
    })

test('an abort while memory is saved ends the capture, and the machine runs', async () => {
  const { machine, spec } = await shared
  const before = await files(spec.directory)
  const abort = new AbortController()
  const pause = machine.pause.bind(machine)
  machine.pause = async () => {
    await pause()
    abort.abort(new Error('enough'))
  }
  await assert.rejects(memory.capture(machine, spec, await host.directory(), abort.signal), /enough/)
  machine.pause = pause
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await files(spec.directory), before)
})

test('a machine that can not be made to run again does not cost the image, and the report says so', async () => {
  const { machine, spec } = await shared
  const target = await host.directory()
  machine.faults = { cont: 'before' }
  const report = await memory.capture(machine, spec, target, never)
  assert.match(report.notResumed ?? '', /fault before cont/)
  assert.equal(await memory.holdsMemory(target), true)
})

test('layers that a killed server left over the one in use are no part of the disk', async () => {
  const { machine, spec } = await host.start()
  await addLayer(spec.directory, 1)
  await writeFile(path.join(spec.directory, layerName(3)), 'rubbish')
  const target = await host.directory()
  await memory.capture(machine, spec, target, never)
  assert.equal((await machine.activeLayer()).number, 2)
  assert.equal((await readWholeManifest(target))?.lastLayer, 1)
  assert.deepEqual(await files(target), wholeImage)

  await writeFile(path.join(spec.directory, layerName(3)), 'rubbish')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.equal((await readWholeManifest(spec.directory))?.lastLayer, 2)
})

test('a machine that is captured again and again keeps a short chain, and its disk stays whole', async () => {
  const { machine, spec } = await host.start()
  const write = (block: number): Promise<unknown> =>
    machine.command('human-monitor-command', { 'command-line': `qemu-io system "write -P ${block + 1} ${block * 64}k 64k"` })
  let target = ''
  for (let generation = 0; generation < 16; generation += 1) {
    await write(generation)
    target = await host.directory()
    await memory.capture(machine, spec, target, never)
  }
  const layers = (await files(target)).filter((name) => name.startsWith('disk-'))
  assert.ok(layers.length < 10, layers.join(', '))
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const last = Math.max(...(await files(spec.directory)).map((name) => Number(/^disk-(\d+)/.exec(name)?.[1] ?? 0)))
  for (const [directory, layer] of [
    [target, last - 1],
    [spec.directory, last],
  ] as const) {
    await checkChain(directory, layer)
    const reads = Array.from({ length: 16 }, (_, block) => ['-c', `read -P ${block + 1} ${block * 64}k 64k`]).flat()
    const { code, stdout } = await run('qemu-io', ['-r', ...reads, layerName(layer)], { cwd: directory })
    assert.equal(code, 0, stdout)
  }
  host.owns(await memory.restore(spec, await driver.stamp(), never))
})

test('a suspended machine can be ended and restored, in place', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.equal(await machine.status(), 'paused')
  await machine.kill()
  assert.equal(await memory.holdsMemory(spec.directory), true)
  const restored = host.owns(await memory.restore(spec, await driver.stamp(), never))
  assert.equal(await restored.status(), 'paused')
  await restored.resume()
  await memory.consumeMemory(spec.directory)
  assert.deepEqual(await files(spec.directory), ['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'memory-1.base'])
})

test('a machine that goes on after it was suspended drops the image, since its disks change: in this server process or the next', async () => {
  const { machine, spec } = await host.start()
  const before = await files(spec.directory)
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
  assert.deepEqual(await files(spec.directory), before)

  await machine.pause()
  await memory.suspend(machine, spec, never)
  machine.release()
  const adopted = await driver.adopt(spec, machine.process)
  assert.ok(adopted)
  host.owns(adopted)
  await adopted.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
  adopted.release()
})

test('a machine whose own image is damaged drops it, too, before it goes on', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await rm(path.join(spec.directory, 'memory.json'))
  await writeFile(path.join(spec.directory, 'memory.json'), '{"version": 2')
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
})

test('a restored machine that a new server process makes run keeps the image that it was started from', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const restored = host.owns(await memory.restore(spec, await driver.stamp(), never))
  restored.release()
  const adopted = await driver.adopt(spec, restored.process)
  assert.ok(adopted)
  await adopted.resume()
  assert.equal(await memory.holdsMemory(spec.directory), true)
  adopted.release()
})

test('a machine is not adopted for another directory, whose record was copied from its own', async () => {
  const { machine, spec } = await host.start()
  assert.equal(await driver.adopt({ ...spec, directory: `${spec.directory}-copy` }, machine.process), undefined)
  assert.equal(await machine.status(), 'running')
})

for (const when of ['before', 'after'] as const)
  test(`a suspend that fails ${when} the devices are saved leaves nothing of it`, async () => {
    const { machine, spec } = await startFaulty(host)
    const before = await files(spec.directory)
    await machine.pause()
    machine.faults = { 'xen-save-devices-state': when }
    await assert.rejects(memory.suspend(machine, spec, never), /fault/)
    machine.faults = {}
    assert.deepEqual(await files(spec.directory), before)
    assert.equal(await machine.status(), 'paused')
    await memory.suspend(machine, spec, never)
    assert.equal(await memory.holdsMemory(spec.directory), true)
  })

test('discarding an image leaves the memory that a live process maps, and nothing of a dead one', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await memory.discardMemory(spec.directory)
  assert.deepEqual(await files(spec.directory), ['disk-0.raw', 'disk-1.qcow2', 'memory-0.base'])
  await memory.suspend(machine, spec, never)
  await machine.kill()
  await memory.discardMemory(spec.directory)
  await memory.discardMemory(spec.directory)
  assert.deepEqual(await files(spec.directory), ['disk-0.raw', 'disk-1.qcow2'])
})

test('a restore that fails leaves no process, no socket, and the directory as it was', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const state = path.join(spec.directory, 'device.state')
  const intact = await readFile(state)
  await writeFile(state, intact.subarray(0, intact.length >> 1))
  const before = (await readdir(spec.directory)).filter((name) => !name.endsWith('.sock')).toSorted()
  await assert.rejects(memory.restore(spec, await driver.stamp(), never), (error) => isHypemanError(error, 'host_unavailable'))
  assert.deepEqual((await readdir(spec.directory)).toSorted(), before)

  await writeFile(state, intact)
  const stamp = await driver.stamp()
  await assert.rejects(memory.restore(spec, { ...stamp, version: '1.0.0' }, never), (error) =>
    isHypemanError(error, 'incompatible_version'),
  )
  await assert.rejects(memory.restore({ ...spec, memoryMib: 128 }, stamp, never), /the memory image has .* bytes, the instance 128 MiB/)
  await assert.rejects(memory.restore(spec, stamp, AbortSignal.abort(new Error('enough'))), /enough/)
  assert.deepEqual((await readdir(spec.directory)).toSorted(), before)
  const restored = host.owns(await memory.restore(spec, stamp, never))
  assert.equal(isAlive(restored.process), true)
})

test(
  'a full disk is told as one, the machine runs, and a capture works when there is space again',
  { skip: diskMissing('ext4') },
  async () => {
    await using disk = await mountDisk('ext4', 64)
    await using small = await bareHost(disk.path)
    const { machine, spec } = await small.start()
    const before = await files(spec.directory)
    const target = await small.directory()
    await disk.fill(100_000)
    await assert.rejects(small.memory.capture(machine, spec, target, never), (error) => isHypemanError(error, 'storage_full'))
    assert.equal(await machine.status(), 'running')
    assert.deepEqual(await files(spec.directory), before)
    await machine.pause()
    await assert.rejects(small.memory.suspend(machine, spec, never), (error) => isHypemanError(error, 'storage_full'))
    assert.deepEqual(await files(spec.directory), before)
    await machine.resume()
    await disk.freeUp()
    await small.memory.capture(machine, spec, await small.directory(), never)
  },
)
