// Starts that fail: nothing of them is left, and the error says what to do.

import assert from 'node:assert/strict'
import promises, { readFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import path from 'node:path'
import { after, beforeEach, test } from 'node:test'
import { isHypemanError, type ErrorCode } from '../../api/errors.ts'
import { filesIn, paperCloudHypervisor, tell } from '../../../tests/support/paper-cloud-hypervisor.ts'
import { vmmsOf } from '../../../tests/support/vmm.ts'
import type { MachineSpec } from '../driver.ts'

const host = await paperCloudHypervisor()
after(() => host[Symbol.asyncDispose]())
beforeEach(() => host.install())
const { driver, memory } = host
const never = new AbortController().signal
const dataDirectory = host.layout.root

async function stopped(): Promise<MachineSpec> {
  const spec = host.spec(await host.directory())
  await driver.createDisk(spec.directory, 8 * 1024 ** 2)
  return spec
}

/** An instance in standby, whose guest's memory has a word on page 100. */
async function standby(): Promise<MachineSpec> {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 kept')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  return spec
}

const saying =
  (code: ErrorCode, words: RegExp) =>
  (error: unknown): boolean => {
    assert.ok(isHypemanError(error, code), String(error))
    assert.match(error.message, words)
    return true
  }

/** A shell script that says its version, and otherwise runs these lines. */
const script = (lines: string): string => `[ "$1" = --version ] && echo 'cloud-hypervisor v52.0' && exit 0\n${lines}`

/** Whatever runs for the instance, and whatever lies there, is as it was; but a disk that others link to may have become one of the instance's own, under the next number. */
async function leavesNothing(spec: MachineSpec, act: () => Promise<unknown>): Promise<void> {
  const look = async () => [
    (await filesIn(spec.directory)).map((name) => name.replace(/^disk-\d+\.raw$/, 'disk')),
    vmmsOf({ dataDirectory }),
  ]
  const before = await look()
  await act()
  assert.deepEqual(await look(), before)
}

test('a program that is missing, or is something else, is told by what to do', async () => {
  for (const command of ['/no/such/program', '/bin/true']) {
    const other = host.driverWith({ command })
    assert.match((await other.unavailable()) ?? '', /can't be run; install it .*, or have hypervisor.cloud_hypervisor name its program/)
    const spec = await stopped()
    await leavesNothing(spec, () => assert.rejects(other.boot(spec, never), saying('host_unavailable', /can't be run/)))
  }
  assert.equal(await driver.unavailable(), undefined)
})

test('memory goes on by the version that wrote it where the program of new machines is broken, and only that memory', async () => {
  const [installed, spec] = [path.join(host.layout.hypervisor('cloud-hypervisor'), '52.0'), await standby()]
  await promises.mkdir(installed, { recursive: true })
  await promises.copyFile(host.program, path.join(installed, 'cloud-hypervisor'))
  const stamp = await driver.stamp()
  await host.installScript('exit 1')
  const other = host.driverWith({})
  for (const version of [undefined, '51.1']) assert.match((await other.unavailable(version)) ?? '', /can't be run/)
  assert.equal(await other.unavailable('52.0'), undefined)
  assert.deepEqual(await other.stamp('52.0'), stamp)
  assert.ok(other.memory)
  const machine = host.owns(await other.memory.restore(spec, stamp, never))
  await machine.resume()
  assert.equal(await tell(machine, 'memory 100'), 'kept')
  await promises.rm(installed, { recursive: true })
})

test('a program that was replaced while the server runs does not start, and the next attempt takes the new one', async () => {
  const spec = await stopped()
  assert.equal((await driver.stamp()).version, '52.0')
  await host.install({ STAND_IN_VERSION: '53.0' })
  await leavesNothing(spec, () => assert.rejects(driver.boot(spec, never), saying('incompatible_version', /is 53.0 now instead of 52.0/)))
  host.owns(await driver.boot(spec, never))
  assert.equal((await driver.stamp()).version, '53.0')
  await host.install()
  await assert.rejects(driver.boot(await stopped(), never), saying('incompatible_version', /is 52.0 now instead of 53.0/))
})

test('a process that ends at once is told at once, with what it said', async () => {
  await host.installScript(script('echo "no such device" >&2; exit 3'))
  const spec = await stopped()
  await leavesNothing(spec, () =>
    assert.rejects(driver.boot(spec, never), saying('host_unavailable', /ended.* code 3.*its log: no such device/)),
  )
})

test('a process that never listens is ended when the caller gives up', async () => {
  await host.installScript(script('exec sleep 600'))
  const spec = await stopped()
  await leavesNothing(spec, () => assert.rejects(driver.boot(spec, AbortSignal.timeout(300)), { name: 'TimeoutError' }))
})

test('a configuration that the VMM refuses is told in its words', async () => {
  const spec = { ...(await stopped()), disks: [{ id: 'rootfs', path: '/no/such/image', readOnly: true }] }
  await leavesNothing(spec, () =>
    assert.rejects(driver.boot(spec, never), saying('host_unavailable', /refused vm.boot .*cannot open \/no\/such\/image: ENOENT/)),
  )
})

test('a process that dies while it restores leaves the instance in standby, whole', async () => {
  const spec = await standby()
  await host.install({ STAND_IN_DIES: 'vm.restore' })
  await leavesNothing(spec, () =>
    assert.rejects(memory.restore(spec, { ...stampOf52 }, never), saying('host_unavailable', /Cloud Hypervisor could not start/)),
  )
  await host.install()
  const machine = host.owns(await memory.restore(spec, stampOf52, never))
  await machine.resume()
  assert.equal(await tell(machine, 'memory 100'), 'kept')
})

const stampOf52 = { hypervisor: 'cloud-hypervisor', version: '52.0', machineType: 'pci', accelerator: 'kvm' } as const

test('where userfaultfd fails, memory is read as a whole, and the log says so', async () => {
  const spec = await standby()
  await host.install({ STAND_IN_USERFAULTFD: 'no' })
  const machine = host.owns(await memory.restore(spec, stampOf52, never))
  await machine.resume()
  assert.equal(await tell(machine, 'memory 100'), 'kept')
  const log = await readFile(path.join(spec.directory, 'logs/vmm.log'), 'utf8')
  assert.match(log, /hypeman: memory could not be loaded on demand and is read as a whole .*userfaultfd/)
  // All of it is the process's own: its snapshots need no other file.
  assert.equal((await filesIn(spec.directory)).includes('memory.base'), false)
})

test('a directory whose sockets would have too long a path is refused before anything is made', async () => {
  const spec = await stopped()
  const long = { ...spec, directory: `${spec.directory}/${'x'.repeat(107)}` }
  await leavesNothing(spec, () =>
    assert.rejects(driver.boot(long, never), saying('storage_unsuitable', /longer than 107 bytes; use a data directory/)),
  )
})

test('a program that takes a connection and never answers is given up in the time that a start has', async () => {
  const listens = `require('http').createServer(() => undefined).listen(process.argv[2].replace('path=', ''))`
  await host.installScript(script(`exec '${process.execPath}' -e "${listens}" -- "$@"`))
  const spec = await stopped()
  const words = /did not (answer|listen).* within [0-4](\.\d+)? s/
  await leavesNothing(spec, () =>
    assert.rejects(host.driverWith({ startLimitMs: 4_000 }).boot(spec, never), saying('host_unavailable', words)),
  )
})

test('a restore after which its directory can not be removed leaves no process', async (t) => {
  const spec = await standby()
  const before = vmmsOf({ dataDirectory })
  const { rm } = promises
  let restoring = 0
  t.mock.method(promises, 'rm', async (...[file, options]: Parameters<typeof rm>) => {
    if (path.basename(String(file)) === 'restoring.tmp' && (restoring += 1) === 2) throw new Error('a fault')
    await rm(file, options)
  })
  syncBuiltinESMExports()
  try {
    await assert.rejects(memory.restore(spec, stampOf52, never), /a fault/)
  } finally {
    t.mock.restoreAll()
    syncBuiltinESMExports()
  }
  assert.deepEqual(vmmsOf({ dataDirectory }), before)
  assert.deepEqual(
    (await filesIn(spec.directory)).filter((name) => name.endsWith('.raw')),
    ['disk-1.raw'],
  )
})
