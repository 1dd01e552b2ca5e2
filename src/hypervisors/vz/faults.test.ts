// What a helper may do wrong: each time the wait has an end, the error says what happened, and no process, socket or half an image is left.

import assert from 'node:assert/strict'
import { readdirSync, readlinkSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import {
  filesIn,
  LISTENS_BY_THEN_MS,
  SHORT_START_MS,
  vzHost,
  type HelperSettings,
  type VzDriver,
} from '../../../tests/support/vz-helper.ts'
import { isHypemanError, type ErrorCode } from '../../api/errors.ts'

const host = await vzHost()
after(() => host[Symbol.asyncDispose]())
const never = new AbortController().signal
const sound = await host.driver()

/** A snapshot's payload to go on from. */
const payload = await host.directory()
{
  const { machine, spec } = await host.start(sound)
  await sound.memory.capture(machine, spec, payload, never)
  await machine.kill()
}

/** Pids of the processes whose working directory this is. */
function processesIn(directory: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/cwd`) === directory
    } catch {
      return false // it has ended meanwhile
    }
  })
}

async function bootFails(driver: VzDriver, code: ErrorCode, words: RegExp, signal: AbortSignal = never): Promise<void> {
  const directory = await host.directory()
  await driver.createDisk(directory, 16 * 1024 ** 2)
  await assert.rejects(
    driver.boot(host.spec(directory), signal),
    (error) => isHypemanError(error, code) && (assert.match(error.message, words), true),
  )
  assert.deepEqual(await filesIn(directory), ['disk-1.raw'])
  assert.deepEqual(processesIn(directory), [])
}

async function restoreFails(settings: HelperSettings, words: RegExp): Promise<void> {
  const driver = await host.driver(settings)
  const directory = await host.directory()
  await driver.materialise(payload, directory, true)
  const before = await filesIn(directory)
  await assert.rejects(
    driver.memory.restore(host.spec(directory), await driver.stamp(), never),
    (error) => isHypemanError(error, 'host_unavailable') && (assert.match(error.message, words), true),
  )
  assert.deepEqual(await filesIn(directory), before)
  assert.deepEqual(processesIn(directory), [])
}

test('a helper that can not be started is named, with how to build it', async () => {
  const directory = await host.directory()
  await sound.createDisk(directory, 16 * 1024 ** 2)
  await assert.rejects(
    host.driverOf('/nowhere/hypeman-vz').boot(host.spec(directory), never),
    (error) => isHypemanError(error, 'host_unavailable') && /\/nowhere\/hypeman-vz can't be run; build it/.test(error.message),
  )
  assert.deepEqual(await filesIn(directory), ['disk-0.raw'])
})

test('a helper that ends at once is told with what it said', async () => {
  await bootFails(
    await host.driver({ STAND_IN_FAULT: 'start:die' }),
    'host_unavailable',
    /a fault that was ordered \(the helper ended: exited with code 1\)/,
  )
})

test('a helper that never listens is given up', async () => {
  await bootFails(
    await host.driver({ STAND_IN_FAULT: 'start:hang' }, SHORT_START_MS),
    'host_unavailable',
    /did not listen on its socket within 1\.5 s/,
  )
})

test('a helper that takes a connection and never answers is given up', async () => {
  await bootFails(
    await host.driver({ STAND_IN_FAULT: 'vmm.ping:hang' }, LISTENS_BY_THEN_MS),
    'host_unavailable',
    /did not answer vmm\.ping within/,
  )
})

test('what is not the protocol is shown, and the helper ended', async () => {
  await bootFails(
    await host.driver({ STAND_IN_FAULT: 'vm.create:garbage' }),
    'host_unavailable',
    /answered vm\.create with status 200 and "<html>", which is not its protocol; build it again/,
  )
})

test('a helper that ends while the machine starts is told with what it said', async () => {
  await bootFails(await host.driver({ STAND_IN_FAULT: 'vm.boot:die' }), 'host_unavailable', /a fault that was ordered/)
})

test('an abort ends the wait, with its own reason', async () => {
  const driver = await host.driver({ STAND_IN_FAULT: 'vm.boot:hang' })
  const directory = await host.directory()
  await driver.createDisk(directory, 16 * 1024 ** 2)
  const reason = new Error('enough')
  const aborted = new AbortController()
  const booting = driver.boot(host.spec(directory), aborted.signal)
  // Once the machine was made, only the start is left to wait for.
  void waitForSocket(directory).then(() => aborted.abort(reason))
  await assert.rejects(booting, (error) => error === reason)
  assert.deepEqual(await filesIn(directory), ['disk-1.raw'])
  assert.deepEqual(processesIn(directory), [])
})

test('a helper that was replaced while the server runs is refused once, and asked again', async () => {
  const driver = await host.driver({ STAND_IN_MACOS: '15.1', STAND_IN_MACOS_NOW: '15.2' })
  await bootFails(
    driver,
    'incompatible_version',
    /replaced while the server ran: it says that macOS is 15\.2 now instead of 15\.1; try again/,
  )
})

test('a restore whose helper ends, hangs up or talks nonsense leaves the directory as it was', async () => {
  await restoreFails({ STAND_IN_FAULT: 'vm.restore:die' }, /a fault that was ordered/)
  await restoreFails({ STAND_IN_FAULT: 'vm.create:die' }, /a fault that was ordered/)
  await restoreFails({ STAND_IN_FAULT: 'vm.restore:garbage' }, /answered vm\.restore with status 200/)
})

test('a directory whose sockets would have too long a path is refused before anything is made or given up', async () => {
  const directory = path.join(await host.directory(), 'x'.repeat(107))
  await mkdir(directory)
  await sound.materialise(payload, directory, true)
  const before = await filesIn(directory)
  const start = [
    () => sound.boot(host.spec(directory), never),
    async () => sound.memory.restore(host.spec(directory), await sound.stamp(), never),
  ]
  for (const act of start) await assert.rejects(act, { code: 'storage_unsuitable', message: /longer than 107 bytes/ })
  assert.deepEqual(await filesIn(directory), before)
})

test('a capture that fails leaves the machine running and nothing that counts as an image', async () => {
  for (const fault of ['vm.snapshot:garbage', 'vm.pause:garbage'] as const) {
    const driver = await host.driver({ STAND_IN_FAULT: fault })
    const { machine, spec } = await host.start(driver)
    const target = await host.directory()
    await assert.rejects(driver.memory.capture(machine, spec, target, never), (error) => isHypemanError(error, 'host_unavailable'))
    assert.equal(await machine.status(), 'running', fault)
    assert.equal(await driver.memory.holdsMemory(target), false)
  }
})

test('a capture whose helper ends says so', async () => {
  const driver = await host.driver({ STAND_IN_FAULT: 'vm.snapshot:die' })
  const { machine, spec } = await host.start(driver)
  await assert.rejects(driver.memory.capture(machine, spec, await host.directory(), never), (error) => {
    const told = error instanceof SuppressedError ? error.suppressed : error
    return isHypemanError(told, 'host_unavailable') && /can't be asked vm\.snapshot .* it may just have ended/.test(told.message)
  })
  assert.match((await machine.exited).reason, /exited with code 1/)
})

test('a machine that does not go on after a capture costs nothing of it, and the reason is told', async () => {
  const driver = await host.driver({ STAND_IN_FAULT: 'vm.resume:garbage' })
  const { machine, spec } = await host.start(driver)
  const target = await host.directory()
  const { notResumed } = await driver.memory.capture(machine, spec, target, never)
  assert.match(notResumed ?? '', /answered vm\.resume with status 200/)
  assert.equal(await driver.memory.holdsMemory(target), true)
})

test('a suspend that fails takes what it wrote with it', async () => {
  const driver = await host.driver({ STAND_IN_FAULT: 'vm.snapshot:garbage' })
  const { machine, spec } = await host.start(driver)
  await machine.pause()
  await assert.rejects(driver.memory.suspend(machine, spec, never), (error) => isHypemanError(error, 'host_unavailable'))
  assert.deepEqual(await filesIn(spec.directory), ['disk-1.raw', 'vsock.sock', 'vz.sock'])
  assert.equal(await machine.status(), 'paused')
})

async function waitForSocket(directory: string): Promise<void> {
  while (!(await filesIn(directory)).includes('vsock.sock')) await new Promise((resolve) => setTimeout(resolve, 5))
}
