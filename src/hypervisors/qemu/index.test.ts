// The driver on a QEMU without a guest: what is frozen, what runs again, and what is left when a step fails.

import assert from 'node:assert/strict'
import { readdir, readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { isHypemanError } from '../../api/errors.ts'
import { isAlive } from '../../platform/process.ts'
import { bareHost, type Backing } from '../../../tests/support/bare-qemu.ts'
import { run } from '../../../tests/support/command.ts'
import { diskMissing, mountDisk } from '../../../tests/support/loop-disk.ts'
import type { MachineSpec } from '../driver.ts'
import { addLayer, layerName } from './layers.ts'
import { QemuMachine } from './machine.ts'
import { readManifest } from './memory.ts'

const host = await bareHost()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

/** Fails commands by name: before they are sent, or after QEMU has carried them out, as if the answer had got lost. */
class FaultyMachine extends QemuMachine {
  faults: Record<string, 'before' | 'after'> = {}

  override async command(...call: Parameters<QemuMachine['command']>): Promise<unknown> {
    const [name] = call
    const fault = this.faults[name]
    if (fault === 'before') throw new Error(`fault before ${name}`)
    const answer = await super.command(...call)
    if (fault !== 'after') return answer
    this.faults = {}
    throw new Error(`fault after ${name}`)
  }
}

async function startFaulty(backing: Backing = 'a file'): Promise<{ machine: FaultyMachine; spec: MachineSpec }> {
  const { machine, spec } = await host.start(FaultyMachine, backing)
  assert.ok(machine instanceof FaultyMachine)
  return { machine, spec }
}

async function files(directory: string): Promise<string[]> {
  const sockets = ['agent.sock', 'qmp.sock', 'logs']
  return (await readdir(directory)).filter((name) => !sockets.includes(name)).toSorted()
}

async function checkChain(directory: string, layer: number): Promise<void> {
  const { code, stderr } = await run('qemu-img', ['check', '-q', '-U', layerName(layer)], { cwd: directory })
  assert.equal(code, 0, stderr)
}

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
const shared = startFaulty()

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
  assert.equal((await readManifest(target))?.lastLayer, 1)
  assert.deepEqual(await files(target), wholeImage)

  await writeFile(path.join(spec.directory, layerName(3)), 'rubbish')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.equal((await readManifest(spec.directory))?.lastLayer, 2)
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
  // Again, now as a diff over the base.
  await restored.pause()
  await memory.suspend(restored, spec, never)
  assert.deepEqual((await readManifest(spec.directory))?.hasDiff, true)
  await restored.kill()
  const again = host.owns(await memory.restore(spec, await driver.stamp(), never))
  assert.equal(await again.status(), 'paused')
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
    const { machine, spec } = await startFaulty()
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

// Memory that is no file comes as a stream, while the machine runs.

test('a machine whose memory is no file is captured while it runs, and what was captured starts machines', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  const before = await files(spec.directory)
  for (const generation of [1, 2]) {
    const payload = await host.directory()
    const report = await memory.capture(machine, spec, payload, never)
    assert.ok(report.memoryBytes > 0 && report.pausedMs > 0)
    assert.deepEqual([report.notResumed, report.note], [undefined, undefined])
    assert.equal(await machine.status(), 'running')
    assert.equal((await machine.activeLayer()).number, generation + 1)
    assert.deepEqual(await files(spec.directory), [...before, ...Array.from({ length: generation }, (_, index) => layerName(index + 2))])
    await checkChain(payload, generation)

    const directory = await host.directory()
    await driver.materialise(payload, directory, true)
    const fork = host.owns(await memory.restore(host.spec(directory), await driver.stamp(), never))
    await fork.resume()
    await memory.consumeMemory(directory)
    const second = await memory.capture(fork, host.spec(directory), await host.directory(), never)
    assert.ok(second.memoryBytes < 8 * 1024 ** 2, 'a fork maps a file: what it wrote is all that is saved')
  }
})

test('what a fork of streamed memory has is byte for byte what the machine had', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  await machine.pause() // so that it can be compared
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  assert.equal(await machine.status(), 'paused', 'a paused machine stays paused')
  const directory = await host.directory()
  await driver.materialise(payload, directory, true)
  const fork = host.owns(await memory.restore(host.spec(directory), await driver.stamp(), never))
  const dump = async (one: QemuMachine, where: string): Promise<Buffer> => {
    const file = path.join(where, 'dump')
    await one.command('pmemsave', { val: 0, size: spec.memoryMib * 1024 ** 2, filename: file })
    return readFile(file)
  }
  assert.ok(fork instanceof QemuMachine)
  assert.ok((await dump(machine, spec.directory)).equals(await dump(fork, directory)))
})

const streamed = startFaulty('no file')

/** Not by its own word alone: its firmware counts time in memory (the BIOS data area has a tick count at 0x46c). */
async function untilItRuns(machine: QemuMachine): Promise<void> {
  const ticks = async (): Promise<string> => String(await machine.command('human-monitor-command', { 'command-line': 'xp /1wx 0x46c' }))
  const before = await ticks()
  for (const deadline = performance.now() + 20_000; (await ticks()) === before; await delay(20))
    assert.ok(performance.now() < deadline, `the machine says that it is ${await machine.status()}, but nothing happens in it`)
  assert.equal(await machine.status(), 'running')
}

for (const command of ['query-migrate', 'migrate-set-capabilities', 'blockdev-add', 'stop', 'blockdev-snapshot', 'migrate'])
  for (const when of ['before', 'after'] as const)
    test(`a live capture that fails ${when} ${command} leaves the machine running on a sound disk, and the next one works`, async () => {
      const { machine, spec } = await streamed
      const target = await host.directory()
      machine.faults = { [command]: when }
      await assert.rejects(memory.capture(machine, spec, target, never), new RegExp(`fault ${when} ${command}`))
      machine.faults = {}
      await untilItRuns(machine)
      assert.deepEqual(await files(target), [])
      assert.equal((await readdir(spec.directory)).includes('capture.sock'), false)
      const { number } = await machine.activeLayer()
      await checkChain(spec.directory, number)

      const next = await host.directory()
      await memory.capture(machine, spec, next, never)
      assert.equal(await memory.holdsMemory(next), true)
      await checkChain(next, number)
    })

test('an abort in the middle of a live capture ends it, the machine runs on, and the next capture works', async () => {
  const { machine, spec } = await streamed
  const target = await host.directory()
  const abort = new AbortController()
  const command = machine.command.bind(machine)
  machine.command = async (...call) => {
    const answer = await command(...call)
    if (call[0] === 'migrate') abort.abort(new Error('enough'))
    return answer
  }
  await assert.rejects(memory.capture(machine, spec, target, abort.signal), /enough/)
  machine.command = command
  await untilItRuns(machine)
  assert.deepEqual(await files(target), [])
  const next = await host.directory()
  await memory.capture(machine, spec, next, never)
  assert.equal(await memory.holdsMemory(next), true)
})

test('a machine whose memory is no file goes to standby and comes back, and forgets an image when it goes on', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  const before = await files(spec.directory)
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.deepEqual(await files(spec.directory), [...before, 'device.state', 'memory-1.base', 'memory.json'].toSorted())
  await machine.resume()
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await files(spec.directory), before)

  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const restored = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await restored.resume()
  await memory.consumeMemory(spec.directory)
  assert.equal(await restored.status(), 'running')
})

test('a full disk ends a live capture, and the machine runs', { skip: diskMissing('ext4') }, async () => {
  await using disk = await mountDisk('ext4', 64)
  await using small = await bareHost(disk.path)
  const { machine, spec } = await small.start(QemuMachine, 'no file')
  const target = await small.directory()
  await disk.fill(300_000)
  await assert.rejects(small.memory.capture(machine, spec, target, never), (error) => isHypemanError(error, 'storage_full'))
  await untilItRuns(machine)
  assert.deepEqual(await files(target), [])
  await disk.freeUp()
  await small.memory.capture(machine, spec, await small.directory(), never)
})
