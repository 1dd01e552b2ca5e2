// What lies in a directory after something was cut off, came to nothing, or ended by itself; and when programs are told that the machine stands still.

import assert from 'node:assert/strict'
import { link, readFile, rm } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../../api/errors.ts'
import { diskMissing, mountDisk } from '../../../tests/support/loop-disk.ts'
import { watchSyncs } from '../../../tests/support/syncs.ts'
import { filesIn, paperFirecracker, tell } from '../../../tests/support/paper-firecracker.ts'
import type { MachineSpec } from '../driver.ts'
import { FirecrackerMachine } from './machine.ts'

const host = await paperFirecracker()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal

/** What a machine of that disk finds on it. */
async function diskOf(directory: string): Promise<string> {
  const machine = host.owns(await driver.boot(host.spec(directory), never))
  const text = await tell(machine, 'disk')
  await machine.kill()
  return text
}

/** A machine in standby whose disk says `kept`, and one that went on from there and wrote something else before it was lost. */
async function lostRestore(): Promise<MachineSpec> {
  const { machine, spec } = await host.start()
  await tell(machine, 'disk kept')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const lost = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await lost.resume()
  await tell(lost, 'disk lost')
  await lost.kill()
  return spec
}

test('a frozen disk that the removal of its image has left is nobody’s disk', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'disk old')
  await machine.kill()
  await link(path.join(spec.directory, 'disk.raw'), path.join(spec.directory, 'old'))
  const again = host.owns(await driver.boot(spec, never))
  await tell(again, 'disk new')
  await again.kill()
  // As a server leaves it that is killed between the first file and the last.
  await link(path.join(spec.directory, 'old'), path.join(spec.directory, 'disk.frozen'))
  const payload = await host.directory()
  await driver.share(spec.directory, payload, false)
  const other = await host.directory()
  await driver.materialise(payload, other, false)
  assert.equal(await diskOf(other), 'new')
  const file = path.join(await host.directory(), 'exported.raw')
  await driver.exportDisk(spec.directory, file, never)
  assert.equal((await readFile(file)).toString('utf8', 0, 3), 'new')
  assert.equal(await diskOf(spec.directory), 'new')
})

test('memory that is given up takes what was written since it was restored with it, whether by itself or by a cold boot', async () => {
  const discarded = await lostRestore()
  await memory.discardMemory(discarded.directory)
  await memory.discardMemory(discarded.directory)
  assert.deepEqual(
    (await filesIn(discarded.directory)).filter((name) => !name.endsWith('.sock')),
    ['disk.raw'],
  )
  assert.equal(await diskOf(discarded.directory), 'kept')
  assert.equal(await diskOf((await lostRestore()).directory), 'kept')
})

test('memory that is given up beside a process leaves it its disk', async () => {
  const { directory } = await lostRestore()
  const machine = host.owns(await memory.restore(host.spec(directory), await driver.stamp(), never))
  await machine.resume()
  await tell(machine, 'disk goes on')
  await memory.discardMemory(directory)
  await machine.kill()
  assert.equal(await diskOf(directory), 'goes on')
})

test('what a process counted from goes when the guest ends by itself, and not before', async () => {
  const { machine, spec } = await host.start()
  await memory.capture(machine, spec, await host.directory(), never)
  await memory.discardMemory(spec.directory)
  assert.ok((await filesIn(spec.directory)).includes('memory.since'))
  await tell(machine, 'reset')
  await machine.exited
  assert.equal((await filesIn(spec.directory)).includes('memory.since'), false)
})

test('a guest that ends while its capture is completed leaves the image whole, and nothing in its own directory', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 first')
  await memory.capture(machine, spec, await host.directory(), never)
  await tell(machine, 'memory 101 second')
  const resume = machine.resume.bind(machine)
  machine.resume = async () => {
    await resume()
    process.kill(machine.process.pid, 'SIGKILL')
    await machine.exited
  }
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  const { machine: fork } = await host.fork(payload)
  assert.deepEqual([await tell(fork, 'memory 100'), await tell(fork, 'memory 101')], ['first', 'second'])
  assert.deepEqual(
    (await filesIn(spec.directory)).filter((name) => name.startsWith('memory')),
    [],
  )
})

test('programs are told when a running machine stands still, and go on before its image is complete', async () => {
  const { machine, spec } = await host.start()
  assert.equal(memory.tellsPause, true)
  for (const isPaused of [false, true]) {
    if (isPaused) await machine.pause()
    const payload = await host.directory()
    const turns: unknown[] = []
    const completed = { isIt: false }
    const around = {
      before: async () => void turns.push(await machine.status()),
      after: () => void turns.push(completed.isIt, machine.status()),
    }
    await memory.capture(machine, spec, payload, never, around)
    completed.isIt = true
    assert.deepEqual(await Promise.all(turns), isPaused ? [] : ['running', false, 'running'])
    assert.equal(await machine.status(), isPaused ? 'paused' : 'running')
  }
})

test('where pages can not be told from holes all of memory is written each time, and the snapshot says why', async () => {
  const coarse = host.driverWith({ pageHoles: false }).memory
  assert.ok(coarse)
  const { machine, spec } = await host.start()
  const notes: (string | undefined)[] = []
  let payload = ''
  for (const round of ['1', '2']) {
    await tell(machine, `memory 100 ${round}`)
    payload = await host.directory()
    notes.push((await coarse.capture(machine, spec, payload, never)).note)
  }
  assert.equal(notes[0], undefined, 'nothing lies below the first')
  assert.match(notes[1] ?? '', /does not tell written pages from holes/)
  assert.equal(await tell((await host.fork(payload)).machine, 'memory 100'), '2')
  await rm(payload, { recursive: true })
})

test('a guest that was never resumed is not asked for its log', async (t) => {
  const { machine, spec } = await host.start()
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  const follow = t.mock.method(FirecrackerMachine.prototype, 'followLog')
  const fork = host.spec(await host.directory())
  await driver.materialise(payload, fork.directory, true)
  const loaded = host.owns(await memory.restore(fork, await driver.stamp(), never))
  assert.ok(loaded instanceof FirecrackerMachine)
  assert.deepEqual([follow.mock.callCount(), loaded.logged], [0, 0])
  for (const _time of [1, 2]) await loaded.resume()
  assert.deepEqual(
    follow.mock.calls.map((call) => call.arguments),
    [[0]],
  )
})

test('a full disk is told as that, and the machine goes on', { skip: diskMissing('tmpfs') }, async () => {
  await using disk = await mountDisk('tmpfs', 64)
  await using small = await paperFirecracker(disk.path)
  const { machine, spec } = await small.start()
  const payload = await small.directory()
  await disk.fill(0)
  await assert.rejects(small.memory.capture(machine, spec, payload, never), (error) => isHypemanError(error, 'storage_full'))
  await disk.freeUp()
  assert.equal(await machine.status(), 'running')
})

test('the disk of a restored machine is on disk before its image goes, and keeps no guest waiting for that', async (t) => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const synced: [name: string, isThere: boolean][] = []
  await watchSyncs(t, async (file) => void synced.push([path.basename(file), await memory.holdsMemory(spec.directory)]))
  const restored = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await restored.resume()
  assert.deepEqual(synced, [])
  await memory.consumeMemory(spec.directory)
  assert.deepEqual(synced[0], ['disk.raw', true])
})
