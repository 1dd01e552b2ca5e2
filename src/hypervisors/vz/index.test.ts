// The driver on a helper that follows the protocol (the stand-in), with guests that have no kernel: what is frozen, what runs again, and over which disk.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { lstat, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { filesIn, vzHost } from '../../../tests/support/vz-helper.ts'
import { isHypemanError } from '../../api/errors.ts'
import { isAlive } from '../../platform/process.ts'
import { createVzDriver } from './index.ts'
import { VzMachine } from './machine.ts'

const host = await vzHost()
after(() => host[Symbol.asyncDispose]())
const driver = await host.driver()
const { memory } = driver
const never = new AbortController().signal
const wholeImage = ['disk-1.raw', 'machine.state', 'memory.json']

test('a machine starts on a disk of its own, is paused and goes on, and is gone when it was killed', async () => {
  const { machine, spec } = await host.start(driver)
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(spec.directory), ['disk-1.raw', 'vsock.sock', 'vz.sock'])
  await machine.pause()
  await machine.pause()
  assert.equal(await machine.status(), 'paused')
  await machine.resume()
  await machine.resume()
  assert.equal(await machine.status(), 'running')
  await machine.kill()
  await machine.kill()
  assert.equal(isAlive(machine.process), false)
})

test('a machine that is about to go on is paused once it does', async (t) => {
  const { machine } = await host.start(driver)
  assert.ok(machine instanceof VzMachine)
  const info = await machine.info()
  t.mock.method(machine, 'info', () => Promise.resolve({ ...info, state: 'Resuming' }), { times: 1 })
  await machine.pause()
  assert.equal(await machine.status(), 'paused')
})

test('a capture freezes memory and disk, and the same process goes on; any number of machines start from it, each over a disk of its own', async () => {
  const { machine, spec } = await host.start(driver)
  const payload = await host.directory()
  const report = await memory.capture(machine, spec, payload, never)
  assert.ok(report.memoryBytes > 0 && report.pausedMs > 0)
  assert.equal(report.notResumed, undefined)
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(payload), wholeImage)
  assert.deepEqual(
    ['disk-1.raw', 'machine.state', 'memory.json', 'vz.sock', 'logs'].map((file) => driver.partOf(file)),
    ['disk', 'memory', 'state', undefined, undefined],
  )

  const before = await digests(payload)
  for (const directory of [await host.directory(), await host.directory()]) {
    await driver.materialise(payload, directory, true)
    assert.deepEqual(await filesIn(directory), wholeImage)
    const fork = host.owns(await memory.restore(host.spec(directory), await driver.stamp(), never))
    assert.equal(await fork.status(), 'paused')
    await fork.resume()
    assert.equal(await memory.holdsMemory(directory), true, 'until it is consumed')
    await memory.consumeMemory(directory)
    assert.equal(await memory.holdsMemory(directory), false)
    assert.deepEqual(await filesIn(directory), ['disk-2.raw', 'vsock.sock', 'vz.sock'])
    // What a fork writes reaches neither the payload nor another fork.
    await writeFile(path.join(directory, 'disk-2.raw'), 'changed', { flag: 'r+' })
    await fork.kill()
  }
  assert.deepEqual(await digests(payload), before)
})

test('a capture leaves a paused machine paused', async () => {
  const { machine, spec } = await host.start(driver)
  await machine.pause()
  await memory.capture(machine, spec, await host.directory(), never)
  assert.equal(await machine.status(), 'paused')
})

test('a suspended machine goes on in a new process; one that goes on in its own loses its image first', async () => {
  const { machine, spec } = await host.start(driver)
  await machine.pause()
  await memory.suspend(machine, spec, never)
  assert.equal(await memory.holdsMemory(spec.directory), true)
  assert.equal(await machine.status(), 'paused')
  await machine.resume()
  assert.equal(await memory.holdsMemory(spec.directory), false)
  assert.deepEqual(await filesIn(spec.directory), ['disk-1.raw', 'vsock.sock', 'vz.sock'])

  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  const next = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await next.resume()
  assert.equal(await memory.holdsMemory(spec.directory), true, 'the image that it was started from is not its own')
  await memory.consumeMemory(spec.directory)
  await next.pause()
  await memory.suspend(next, spec, never)
  assert.deepEqual(
    (await filesIn(spec.directory)).filter((name) => !name.endsWith('.sock')),
    ['disk-2.raw', 'machine.state', 'memory.json'],
  )
})

test('a stopped machine is shared without its memory, and what is shared is not written by its next start', async () => {
  const { machine, spec } = await host.start(driver)
  await machine.kill()
  const payload = await host.directory()
  await driver.share(spec.directory, payload, false)
  assert.deepEqual(await filesIn(payload), ['disk-1.raw'])
  const again = host.owns(await driver.boot(spec, never))
  assert.deepEqual(
    (await filesIn(spec.directory)).filter((name) => name.endsWith('.raw')),
    ['disk-2.raw'],
  )
  assert.equal((await lstat(path.join(payload, 'disk-1.raw'))).nlink, 1)
  await again.kill()
})

test('a machine is found again by a new server, but not by another directory or with another pid', async () => {
  const { machine, spec } = await host.start(driver)
  const found = await driver.adopt(spec, machine.process)
  assert.ok(found)
  assert.equal(await found.status(), 'running')
  assert.equal(await driver.adopt({ directory: await host.directory() }, machine.process), undefined)
  assert.equal(await driver.adopt(spec, { ...machine.process, startTicks: '1' }), undefined)
  await machine.kill()
  assert.equal(await driver.adopt(spec, machine.process), undefined)
})

test('a guest is asked for memory in whole mebibytes, and what it was asked for counts as given', async () => {
  const { machine } = await host.start(driver)
  const { balloon } = driver
  assert.equal(await balloon.given(machine, never), 0)
  await balloon.ask(machine, 10 * 1024 ** 2 + 1, never)
  assert.equal(await balloon.given(machine, never), 10 * 1024 ** 2)
  await balloon.ask(machine, 1024 ** 4, never)
  assert.equal(await balloon.given(machine, never), 63 * 1024 ** 2, 'a guest keeps something')
  await balloon.ask(machine, 0, never)
  assert.equal(await balloon.given(machine, never), 0)
})

test('a machine with a network is refused before anything is touched', async () => {
  const directory = await host.directory()
  await driver.createDisk(directory, 16 * 1024 ** 2)
  const before = await filesIn(directory)
  const spec = { ...host.spec(directory), network: { kind: 'user', mac: '02:00:00:00:00:01', ports: [] } } as const
  await assert.rejects(
    driver.boot(spec, never),
    (error) => isHypemanError(error, 'not_supported') && error.message.includes('network.enabled'),
  )
  assert.deepEqual(await filesIn(directory), before)
})

test('memory that macOS can not save is refused with its reason, and the machine goes on', async () => {
  const unsavable = await host.driver({ STAND_IN_UNSAVABLE: 'a device forbids it' })
  const { machine, spec } = await host.start(unsavable)
  const target = await host.directory()
  await assert.rejects(
    unsavable.memory.capture(machine, spec, target, never),
    (error) => isHypemanError(error, 'not_supported') && error.message.includes('a device forbids it'),
  )
  assert.deepEqual(await filesIn(target), [])
  assert.equal(await machine.status(), 'running')
})

test('an image is refused that another macOS wrote, that is damaged, or that belongs to another machine; the directory stays as it was', async () => {
  const { machine, spec } = await host.start(driver)
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  await machine.kill()
  const stamp = await driver.stamp()
  const refused = async (
    code: Parameters<typeof isHypemanError>[1],
    words: RegExp,
    change: (directory: string) => Promise<unknown>,
    other: object = {},
    wanted = stamp,
  ): Promise<void> => {
    const directory = await host.directory()
    await driver.materialise(payload, directory, true)
    await change(directory)
    const before = await filesIn(directory)
    await assert.rejects(
      memory.restore({ ...host.spec(directory), ...other }, wanted, never),
      (error) => isHypemanError(error, code) && words.test(error.message),
    )
    assert.deepEqual(await filesIn(directory), before)
  }
  const nothing = async (): Promise<void> => undefined
  await refused('incompatible_version', /macOS 13\.1 .* here is vz on macOS 15\.1/, nothing, {}, { ...stamp, version: '13.1' })
  await refused('conflict', /64 MiB|67108864 bytes of memory instead of/, nothing, { memoryMib: 128 })
  await refused('conflict', /1 vCPUs instead of 2/, nothing, { vcpus: 2 })
  await refused('corrupt_snapshot', /machine\.state has no bytes/, (directory) => rm(path.join(directory, 'machine.state')))
  await refused('corrupt_snapshot', /disk-1\.raw is missing/, (directory) => rm(path.join(directory, 'disk-1.raw')))
  await refused('corrupt_snapshot', /memory\.json/, async (directory) => {
    await rm(path.join(directory, 'memory.json'))
    await writeFile(path.join(directory, 'memory.json'), '{')
  })
  // Of the right size, but nothing that the framework takes.
  await refused('host_unavailable', /invalid argument|could not be restored/, async (directory) => {
    const { size } = await lstat(path.join(directory, 'machine.state'))
    await rm(path.join(directory, 'machine.state'))
    await writeFile(path.join(directory, 'machine.state'), '')
    await truncate(path.join(directory, 'machine.state'), size)
  })
})

test('the driver says where it can not run, and what to do', async () => {
  const on = (platform: NodeJS.Platform, arch: NodeJS.Architecture): Promise<string | undefined> =>
    createVzDriver({ layout: host.layout, command: '/nowhere/hypeman-vz', host: { platform, arch } }).unavailable()
  assert.match((await on('linux', 'arm64')) ?? '', /macOS on Apple silicon alone; use qemu/)
  assert.match((await on('darwin', 'x64')) ?? '', /macOS on Apple silicon alone/)
  assert.match((await on('darwin', 'arm64')) ?? '', /\/nowhere\/hypeman-vz can't be run; build it on this Mac with vz\/build\.sh/)
  assert.match((await (await host.driver({ STAND_IN_MACOS: '13.6' })).unavailable()) ?? '', /needs macOS 14 or later, here is 13\.6/)
  assert.match((await host.driverOf('/bin/true').unavailable()) ?? '', /build it on this Mac/)
  assert.equal(await driver.unavailable(), undefined)
})

async function digests(directory: string): Promise<Record<string, string>> {
  const names = await filesIn(directory)
  const contents = await Promise.all(names.map((name) => readFile(path.join(directory, name))))
  return Object.fromEntries(
    names.map((name, index) => [
      name,
      createHash('sha256')
        .update(contents[index] ?? '')
        .digest('hex'),
    ]),
  )
}
