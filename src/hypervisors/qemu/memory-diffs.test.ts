// Diffs of memory on a QEMU without a guest: what lies beside a machine, and what starts from it.

import assert from 'node:assert/strict'
import path from 'node:path'
import { after, test } from 'node:test'
import { bareHost, readMemory, writeMemory } from '../../../tests/support/bare-qemu.ts'
import { files } from '../../../tests/support/faulty-qemu.ts'
import type { MachineSpec } from '../driver.ts'
import { QemuMachine } from './machine.ts'
import { readWholeManifest } from './memory.ts'

const host = await bareHost()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

async function restore(spec: MachineSpec): Promise<QemuMachine> {
  const machine = await memory.restore(spec, await driver.stamp(), never)
  assert.ok(machine instanceof QemuMachine)
  return host.owns(machine)
}

test('a machine that is suspended and restored again and again adds a diff each time, and has what was written before each', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  let again = await restore(spec)
  await again.resume()
  await memory.consumeMemory(spec.directory)
  for (const diffs of [['memory-1.diff'], ['memory-1.diff', 'memory-2.diff']]) {
    await again.pause()
    await writeMemory(again, 9000, diffs.join())
    await memory.suspend(again, spec, never)
    assert.deepEqual((await readWholeManifest(spec.directory))?.diffs, diffs)
    await again.kill()
    again = await restore(spec)
    assert.equal(await again.status(), 'paused')
    assert.equal(await readMemory(again, 9000, diffs.join().length), diffs.join())
    await again.resume()
    await memory.consumeMemory(spec.directory)
  }
  assert.deepEqual(await files(spec.directory), [
    ...['disk-0.raw', 'disk-1.qcow2', 'disk-2.qcow2', 'disk-3.qcow2', 'disk-4.qcow2'],
    ...['memory-1.base', 'memory-1.diff', 'memory-2.diff'],
  ])
})

test('a suspend that fails keeps the diffs of earlier images beside the machine, and what was captured from it starts others', async () => {
  const { machine: origin, spec: originSpec } = await host.start()
  const [payload, second, third] = [await host.directory(), await host.directory(), await host.directory()]
  await memory.capture(origin, originSpec, payload, never)
  const spec = host.spec(await host.directory())
  await driver.materialise(payload, spec.directory, true)
  const machine = await restore(spec)
  for (const target of [second, third]) {
    await writeMemory(machine, 9000, path.basename(target))
    await memory.capture(machine, spec, target, never)
  }
  const before = await files(spec.directory)
  assert.deepEqual(
    before.filter((name) => name.startsWith('memory-')),
    ['memory-1.base', 'memory-1.diff', 'memory-2.diff'],
  )
  await writeMemory(machine, 9001, 'later')
  const command = machine.command.bind(machine)
  machine.command = (name, ...rest) => (name === 'xen-save-devices-state' ? Promise.reject(new Error('fault')) : command(name, ...rest))
  await assert.rejects(memory.suspend(machine, spec, never), /fault/)
  machine.command = command
  assert.deepEqual(
    await files(spec.directory),
    before.filter((name) => !['device.state', 'memory.json'].includes(name)),
  )
  await machine.kill()
  for (const target of [third, second]) {
    const fork = host.spec(await host.directory())
    await driver.materialise(target, fork.directory, true)
    const started = await restore(fork)
    assert.equal(await readMemory(started, 9000, path.basename(target).length), path.basename(target))
    await started.kill()
  }
})
