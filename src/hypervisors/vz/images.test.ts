// What lies in a directory after something was cut off or came to nothing; and when programs are told that the machine stands still.

import assert from 'node:assert/strict'
import { open, readFile, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { watchSyncs } from '../../../tests/support/syncs.ts'
import { filesIn, vzHost } from '../../../tests/support/vz-helper.ts'
import type { Machine, MachineSpec } from '../driver.ts'

const host = await vzHost()
after(() => host[Symbol.asyncDispose]())
const driver = await host.driver()
const { memory } = driver
const never = new AbortController().signal

async function standby(): Promise<MachineSpec> {
  const { machine, spec } = await host.start(driver)
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  return spec
}

async function restored(spec: MachineSpec): Promise<Machine> {
  const machine = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await machine.resume()
  return machine
}

async function damage(spec: MachineSpec): Promise<void> {
  await rm(path.join(spec.directory, 'memory.json'))
  await writeFile(path.join(spec.directory, 'memory.json'), '{"version": 1')
}

async function files(spec: MachineSpec): Promise<string[]> {
  return (await filesIn(spec.directory)).filter((name) => !name.endsWith('.sock'))
}

for (const state of ['whole', 'damaged'])
  test(`an image that is ${state} takes what was written since it was restored with it when it is given up`, async () => {
    for (const give of ['by a cold boot', 'by itself']) {
      const spec = await standby()
      const lost = await restored(spec)
      {
        await using disk = await open(path.join(spec.directory, 'disk-2.raw'), 'r+')
        await disk.write('lost')
      }
      await lost.kill()
      if (state === 'damaged') await damage(spec)
      if (give === 'by itself') {
        await memory.discardMemory(spec.directory)
        assert.deepEqual(await files(spec), ['disk-1.raw'])
      }
      host.owns(await driver.boot(spec, never))
      assert.deepEqual(await files(spec), ['disk-1.raw'])
      assert.notEqual((await readFile(path.join(spec.directory, 'disk-1.raw'))).toString('latin1', 0, 4), 'lost', give)
    }
  })

test('memory that is given up beside a process leaves it its disk', async () => {
  const spec = await standby()
  await restored(spec)
  await memory.discardMemory(spec.directory)
  assert.deepEqual(await files(spec), ['disk-1.raw', 'disk-2.raw'])
})

test('an image of the process’s own is dropped before it goes on, whatever has become of its manifest', async () => {
  const { machine, spec } = await host.start(driver)
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await damage(spec)
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
})

test('an image that was used up when the server was killed leaves no disk by which the next one is taken for another’s', async () => {
  const spec = await standby()
  const machine = await restored(spec)
  // As a server leaves it that is killed when the image has gone, and its disk has not.
  for (const name of ['memory.json', 'machine.state']) await rm(path.join(spec.directory, name))
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.deepEqual(await files(spec), ['disk-2.raw', 'machine.state', 'memory.json'])
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
})

test('programs are told when a running machine stands still, and not when a paused one is saved', async () => {
  const { machine, spec } = await host.start(driver)
  assert.equal(memory.tellsPause, true)
  for (const isPaused of [false, true]) {
    if (isPaused) await machine.pause()
    const turns: unknown[] = []
    const around = { before: async () => void turns.push(await machine.status()), after: () => void turns.push(machine.status()) }
    await memory.capture(machine, spec, await host.directory(), never, around)
    assert.deepEqual(await Promise.all(turns), isPaused ? [] : ['running', 'running'])
  }
})

test('the disk of a restored machine is on disk before the image that it was restored from goes, also for a new one', async (t) => {
  const spec = await standby()
  const machine = await restored(spec)
  await machine.pause()
  const synced: [name: string, isThere: boolean][] = []
  await watchSyncs(t, async (file) => void synced.push([path.basename(file), await memory.holdsMemory(spec.directory)]))
  await memory.suspend(machine, spec, never)
  assert.deepEqual(synced[0], ['disk-2.raw', true])
})
