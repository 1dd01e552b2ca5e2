// Memory that is no file is copied out of the process while the machine runs, or while it is paused: on a QEMU without a guest.

import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { isHypemanError } from '../../api/errors.ts'
import { bareHost } from '../../../tests/support/bare-qemu.ts'
import { checkChain, files, startFaulty } from '../../../tests/support/faulty-qemu.ts'
import { diskMissing, mountDisk } from '../../../tests/support/loop-disk.ts'
import { until } from '../../../tests/support/until.ts'
import { hasThreadIn } from '../../platform/threads.ts'
import { layerName } from './layers.ts'
import { QemuMachine } from './machine.ts'

const host = await bareHost()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

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

test('a paused machine whose memory is no file stays paused; its fork has byte for byte what it had', async () => {
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

test('QEMU waits, and so releases no page itself, when the machine is stopped for its memory', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  const command = machine.command.bind(machine)
  const waited: boolean[] = []
  machine.command = async (...call) => {
    if (call[0] === 'stop') waited.push(await hasThreadIn(machine.process.pid, 'pipe_write'))
    return command(...call)
  }
  await memory.capture(machine, spec, await host.directory(), never)
  assert.deepEqual(waited, [true])
})

const shared = startFaulty(host, 'no file')

/** Not by its own word alone: its firmware counts time in memory (the BIOS data area has a tick count at 0x46c). */
async function untilItRuns(machine: QemuMachine): Promise<void> {
  const ticks = async (): Promise<string> => String(await machine.command('human-monitor-command', { 'command-line': 'xp /1wx 0x46c' }))
  const before = await ticks()
  for (const deadline = performance.now() + 20_000; (await ticks()) === before; await delay(20))
    assert.ok(performance.now() < deadline, `the machine says that it is ${await machine.status()}, but nothing happens in it`)
  assert.equal(await machine.status(), 'running')
}

for (const command of [
  ...['query-migrate', 'migrate-set-capabilities', 'blockdev-add', 'getfd', 'migrate'],
  ...['stop', 'xen-save-devices-state', 'blockdev-snapshot'],
])
  for (const when of ['before', 'after'] as const)
    test(`a live capture that fails ${when} ${command} leaves the machine running on a sound disk, and the next one works`, async () => {
      const { machine, spec } = await shared
      const target = await host.directory()
      machine.faults = { [command]: when }
      await assert.rejects(memory.capture(machine, spec, target, never), new RegExp(`fault ${when} ${command}`))
      machine.faults = {}
      await untilItRuns(machine)
      assert.deepEqual(await files(target), [])
      await assert.rejects(machine.command('closefd', { fdname: 'capture' }), /not found/, 'QEMU has no pipe left')
      const { number } = await machine.activeLayer()
      await checkChain(spec.directory, number)

      const next = await host.directory()
      await memory.capture(machine, spec, next, never)
      assert.equal(await memory.holdsMemory(next), true)
      await checkChain(next, number)
    })

test('a machine that QEMU can not save while it runs stands still for it, and the reason is told', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  const command = machine.command.bind(machine)
  machine.command = (name, ...rest) =>
    name === 'migrate-set-capabilities'
      ? command(name, { capabilities: [{ capability: 'none such', state: true }] })
      : command(name, ...rest)
  const payload = await host.directory()
  const report = await memory.capture(machine, spec, payload, never)
  assert.match(report.note ?? '', /none such/)
  await untilItRuns(machine)
  assert.equal(await memory.holdsMemory(payload), true)
})

for (const command of ['migrate', 'stop', 'cont'])
  test(`an abort of a live capture after ${command} ends it, the machine runs on, and the next capture works`, async () => {
    const { machine, spec } = await shared
    const target = await host.directory()
    const abort = new AbortController()
    const ask = machine.command.bind(machine)
    machine.command = async (...call) => {
      const answer = await ask(...call)
      if (call[0] === command) abort.abort(new Error('enough'))
      return answer
    }
    await assert.rejects(memory.capture(machine, spec, target, abort.signal), /enough/)
    machine.command = ask
    await untilItRuns(machine)
    assert.deepEqual(await files(target), [])
    const next = await host.directory()
    await memory.capture(machine, spec, next, never)
    assert.equal(await memory.holdsMemory(next), true)
  })

/** Processes that copy the memory of a machine. */
async function copiersOf({ process: { pid } }: QemuMachine): Promise<number[]> {
  const lines = await Promise.all(
    (await readdir('/proc'))
      .filter((name) => /^\d+$/.test(name))
      .map(async (name) => [Number(name), await readFile(`/proc/${name}/cmdline`, 'latin1').catch(() => '')] as const),
  )
  return lines.filter(([, line]) => line.includes(`live-copy-process.ts\0${pid}\0`)).map(([name]) => name)
}

for (const command of ['stop', 'cont'])
  test(`a process that is killed while it copies, after ${command}, costs the capture; later ones stand still and say why`, async () => {
    const { machine, spec } = await host.start(QemuMachine, 'no file')
    const target = await host.directory()
    const ask = machine.command.bind(machine)
    machine.command = async (...call) => {
      const answer = await ask(...call)
      if (call[0] === command) for (const pid of await copiersOf(machine)) process.kill(pid, 'SIGKILL')
      return answer
    }
    await assert.rejects(memory.capture(machine, spec, target, never), /ended too early/)
    machine.command = ask
    await untilItRuns(machine)
    assert.deepEqual(await files(target), [])
    const next = await host.directory()
    assert.match(
      (await memory.capture(machine, spec, next, never)).note ?? '',
      /stood still while all of its memory was copied \(QEMU refused/,
    )
    await untilItRuns(machine)
    assert.equal(await memory.holdsMemory(next), true)
  })

test('nobody is left of captures when their streams have run out', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  await memory.capture(machine, spec, await host.directory(), never)
  await until('the process has ended', async () => (await copiersOf(machine)).length === 0)
})

test('a machine whose memory is no file goes to standby and comes back, and forgets an image when it goes on', async () => {
  const { machine, spec } = await host.start(QemuMachine, 'no file')
  await memory.capture(machine, spec, await host.directory(), never)
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
