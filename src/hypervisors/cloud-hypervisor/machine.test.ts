// A process of the stand-in with a guest of paper, as a `Machine`: how it is started, taken over by another server process, and ended.

import assert from 'node:assert/strict'
import { readFile, stat } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { isAlive } from '../../platform/process.ts'
import { filesIn, paperCloudHypervisor, tell } from '../../../tests/support/paper-cloud-hypervisor.ts'
import { until } from '../../../tests/support/until.ts'
import { CloudHypervisorMachine } from './machine.ts'

const host = await paperCloudHypervisor()
after(() => host[Symbol.asyncDispose]())
const { driver } = host
const never = new AbortController().signal

test('a machine boots on a disk of its own, and its guest is reached by vsock', async () => {
  const { machine, spec } = await host.start()
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(spec.directory), ['disk-1.raw'])
  assert.equal((await stat(path.join(spec.directory, 'disk-1.raw'))).nlink, 1)
  assert.equal(await tell(machine, 'memory 7'), 'boot 7')
  await machine.pause()
  await machine.pause()
  assert.equal(await machine.status(), 'paused')
  await machine.resume()
  await machine.resume()
  assert.equal(await machine.status(), 'running')
  await machine.powerButton()
  assert.match((await machine.exited).reason, /code 0/)
})

test('a process of another directory, or one that is gone, is not adopted', async () => {
  const { machine, spec } = await host.start()
  assert.equal(await driver.adopt({ directory: await host.directory() }, machine.process), undefined)
  await machine.kill()
  await machine.kill()
  assert.equal(isAlive(machine.process), false)
  assert.equal(await driver.adopt(spec, machine.process), undefined)
})

test('memory is given back by the balloon as far as the VMM tells', async () => {
  const { machine } = await host.start()
  assert.ok(driver.balloon)
  await driver.balloon.ask(machine, 1024 ** 2, never)
  assert.equal(await driver.balloon.given(machine, never), 0, 'a guest without a driver for it gives nothing')
  assert.ok(machine instanceof CloudHypervisorMachine)
  const info = await machine.vmm.info()
  machine.vmm.info = () => Promise.resolve(info === undefined ? undefined : { ...info, memory_actual_size: 7 * 1024 ** 2 })
  assert.equal(await driver.balloon.given(machine, never), 1024 ** 2)
  await assert.rejects(driver.balloon.ask(machine, 1024 ** 3, never), /refused vm.resize/)
})

test('a guest that resets its machine ends the process, in this server process or the next', async () => {
  const { machine } = await host.start()
  await tell(machine, 'reset')
  await machine.exited
  assert.equal(isAlive(machine.process), false)

  const { machine: other, spec } = await host.start()
  other.release()
  const events = path.join(spec.directory, 'logs/cloud-hypervisor-events.log')
  await tell(other, 'reset')
  await until('the guest is booted again', async () => (await readFile(events, 'utf8')).includes('"rebooted"'))
  const adopted = await driver.adopt(spec, other.process)
  assert.ok(adopted)
  await adopted.exited
  assert.equal(isAlive(other.process), false)
})
