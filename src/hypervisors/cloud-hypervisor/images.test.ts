// What lies in a directory after something was cut off, came to nothing, or ended by itself; and when programs are told that the machine stands still.

import assert from 'node:assert/strict'
import { readFile, rename, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { isAlive } from '../../platform/process.ts'
import { filesIn, paperCloudHypervisor, tell } from '../../../tests/support/paper-cloud-hypervisor.ts'
import { watchSyncs } from '../../../tests/support/syncs.ts'
import type { Machine, MachineSpec } from '../driver.ts'

const host = await paperCloudHypervisor()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

async function standby(): Promise<MachineSpec> {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 first')
  await tell(machine, 'disk kept')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  return spec
}

/** A machine that goes on from its standby and runs. */
async function restored(spec: MachineSpec, by = memory): Promise<Machine> {
  const machine = host.owns(await by.restore(spec, await driver.stamp(), never))
  await machine.resume()
  return machine
}

/** A machine in standby whose disk says `kept`, beside the disk of one that went on from there, wrote something else, and was lost. */
async function lostRestore(): Promise<MachineSpec> {
  const spec = await standby()
  const lost = await restored(spec)
  await tell(lost, 'disk lost')
  await lost.kill()
  assert.ok((await filesIn(spec.directory)).includes('disk-2.raw'))
  return spec
}

async function damage(spec: MachineSpec): Promise<void> {
  await rm(path.join(spec.directory, 'memory.json'))
  await writeFile(path.join(spec.directory, 'memory.json'), '{"version": 1')
}

for (const state of ['whole', 'damaged'])
  test(`an image that is ${state} takes what was written since it was restored with it when it is given up`, async () => {
    for (const give of ['by a cold boot', 'by itself']) {
      const spec = await lostRestore()
      if (state === 'damaged') await damage(spec)
      if (give === 'by itself') {
        await memory.discardMemory(spec.directory)
        assert.deepEqual(await filesIn(spec.directory), ['disk-1.raw'])
      }
      assert.equal(await tell(host.owns(await driver.boot(spec, never)), 'disk'), 'kept', give)
    }
  })

test('an image of the process’s own is dropped before it goes on, whatever has become of its manifest', async () => {
  const { machine, spec } = await host.start()
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
  for (const name of ['memory.json', 'config.json', 'state.json', 'memory-ranges']) await rm(path.join(spec.directory, name))
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.deepEqual(
    (await filesIn(spec.directory)).filter((name) => name.endsWith('.raw')),
    ['disk-2.raw'],
  )
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
})

test('what a process was restored from goes when the guest ends by itself, and not before', async () => {
  const spec = await standby()
  const machine = await restored(spec)
  await memory.consumeMemory(spec.directory)
  await memory.discardMemory(spec.directory)
  assert.deepEqual(await filesIn(spec.directory), ['disk-2.raw', 'memory.base'])
  await tell(machine, 'off')
  await machine.exited
  assert.deepEqual(await filesIn(spec.directory), ['disk-2.raw'])
})

test('a guest that ends while its capture is completed leaves the image whole', async () => {
  const spec = await standby()
  const machine = await restored(spec)
  await tell(machine, 'memory 101 second')
  const resume = machine.resume.bind(machine)
  machine.resume = async () => {
    await resume()
    process.kill(machine.process.pid, 'SIGKILL')
    await machine.exited
  }
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  assert.deepEqual(await filesIn(payload), ['config.json', 'disk-2.raw', 'memory-ranges', 'memory.json', 'state.json'])
  const fork = host.spec(await host.directory())
  await driver.materialise(payload, fork.directory, true)
  const next = await restored(fork)
  assert.deepEqual([await tell(next, 'memory 100'), await tell(next, 'memory 101')], ['first', 'second'])
})

test('programs are told when a running machine stands still, and go on before its image is complete', async () => {
  const { machine, spec } = await host.start()
  assert.equal(memory.tellsPause, true)
  for (const isPaused of [false, true]) {
    if (isPaused) await machine.pause()
    const turns: unknown[] = []
    const completed = { isIt: false }
    const around = {
      before: async () => void turns.push(await machine.status()),
      after: () => void turns.push(completed.isIt, machine.status()),
    }
    await memory.capture(machine, spec, await host.directory(), never, around)
    completed.isIt = true
    assert.deepEqual(await Promise.all(turns), isPaused ? [] : ['running', false, 'running'])
  }
})

test('where pages can not be told from holes memory is read as a whole, and the log says why', async () => {
  const spec = await standby()
  const coarse = host.driverWith({ pageHoles: false }).memory
  assert.ok(coarse)
  await restored(spec, coarse)
  assert.equal((await filesIn(spec.directory)).includes('memory.base'), false)
  assert.match(
    await readFile(path.join(spec.directory, 'logs/vmm.log'), 'utf8'),
    /read as a whole .* does not tell written pages from holes/,
  )
})

test('what another process said of a reset ends no machine, and a log that was deleted keeps none from being found again', async () => {
  const { machine: first, spec } = await host.start()
  await first.kill()
  const events = path.join(spec.directory, 'logs/cloud-hypervisor-events.log')
  await rename(events, `${events}.old`)
  await writeFile(events, '{"source": "vm", "event": "rebooting"}\n\n')
  const machine = host.owns(await driver.boot(spec, never))
  assert.equal(await machine.status(), 'running')
  machine.release()
  await rm(events)
  const adopted = await driver.adopt(spec, machine.process)
  assert.ok(adopted)
  assert.equal(await adopted.status(), 'running')
  assert.equal(isAlive(machine.process), true)
})

test('what the VMM refuses is told as that', async () => {
  const { machine, spec } = await host.start()
  const missing = path.join(spec.directory, 'missing')
  await assert.rejects(memory.capture(machine, spec, missing, never), (error) => isHypemanError(error, 'host_unavailable'))
  assert.ok(driver.balloon)
  await assert.rejects(driver.balloon.ask(machine, 1024 ** 3, never), (error) => isHypemanError(error, 'host_unavailable'))
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
