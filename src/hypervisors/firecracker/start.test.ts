// Starts that fail: the directory is as it was, and the error says what to do.

import assert from 'node:assert/strict'
import { mkdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { after, beforeEach, test } from 'node:test'
import { filesIn, paperFirecracker, tell } from '../../../tests/support/paper-firecracker.ts'
import type { MachineSpec } from '../driver.ts'

const host = await paperFirecracker()
after(() => host[Symbol.asyncDispose]())
beforeEach(() => host.install())
const { driver, memory } = host
const never = new AbortController().signal

/** A payload whose guest has a word in its memory and on its disk. */
const payload = await host.directory()
{
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 kept')
  await tell(machine, 'disk kept')
  await memory.capture(machine, spec, payload, never)
  await machine.kill()
}

async function standby(directory?: string): Promise<MachineSpec> {
  const spec = host.spec(directory ?? (await host.directory()))
  await driver.materialise(payload, spec.directory, true)
  return spec
}

/** Names of what lies there, each with its inode. */
async function look({ directory }: MachineSpec): Promise<(readonly [string, number])[]> {
  const names = await filesIn(directory)
  return Promise.all(names.map(async (name) => [name, (await stat(path.join(directory, name))).ino] as const))
}

async function restoreFails(spec: MachineSpec, expected: object): Promise<void> {
  const before = await look(spec)
  await assert.rejects(memory.restore(spec, await driver.stamp(), never), expected)
  assert.deepEqual(await look(spec), before)
}

/** Says its version, and otherwise runs these lines. */
const script = (lines: string): string => `[ "$1" = --version ] && echo 'Firecracker v1.14.2' && exit 0\n${lines}`

test('a machine runs with as many volumes as are allowed and a network, and with no more', async () => {
  const volumes = Array.from({ length: driver.maxVolumes + 1 }, (_, index) => ({
    id: `volume-${index}`,
    path: host.program,
    readOnly: true,
  }))
  const network = { kind: 'tap', mac: '06:00:00:00:00:02', device: 'hmt-none' } as const
  const { disks } = host.spec('/')
  const { machine } = await host.start({ disks: [...disks, ...volumes.slice(1)], network })
  assert.equal(await machine.status(), 'running')
  await assert.rejects(host.start({ disks: [...disks, ...volumes], network }), {
    code: 'host_unavailable',
    message: /requested resource is not available/,
  })
})

test('a restore that fails leaves the directory as it was, and the next one goes on from there', async () => {
  const spec = await standby()
  await driver.stamp()
  await host.installScript(script('echo "no such luck"; exit 3'))
  await restoreFails(spec, { code: 'host_unavailable', message: /no such luck/ })
  await host.install()
  const machine = host.owns(await memory.restore(spec, await driver.stamp(), never))
  await machine.resume()
  assert.deepEqual([await tell(machine, 'memory 100'), await tell(machine, 'disk')], ['kept', 'kept'])
})

test('a program that takes a connection and never answers is given up in the time that a start has', async () => {
  const listens = `require('http').createServer(() => undefined).listen(process.argv[2])`
  await host.installScript(script(`exec '${process.execPath}' -e "${listens}" -- "$@"`))
  const impatient = host.driverWith({ startLimitMs: 4_000 })
  const spec = await standby()
  assert.ok(impatient.memory)
  const before = await look(spec)
  await assert.rejects(impatient.memory.restore(spec, await impatient.stamp(), never), {
    code: 'host_unavailable',
    message: /did not (answer|listen).* within [0-4](\.\d+)? s/,
  })
  assert.deepEqual(await look(spec), before)
})

test('a directory whose sockets would have too long a path is refused before anything is made or given up', async () => {
  const parent = path.join(await host.directory(), 'x'.repeat(107))
  await mkdir(parent)
  const spec = await standby(parent)
  const before = await look(spec)
  const tooLong = { code: 'storage_unsuitable', message: /longer than 107 bytes; use a data directory/ }
  await restoreFails(spec, tooLong)
  await assert.rejects(driver.boot(spec, never), tooLong)
  assert.deepEqual([await look(spec), await memory.holdsMemory(spec.directory)], [before, true])
})

test('what a process would count from does not stay where none could be started', async () => {
  const spec = await standby()
  await rm(path.join(spec.directory, 'logs'), { recursive: true })
  await restoreFails(spec, { code: 'ENOENT' })
  await assert.rejects(driver.boot(spec, never), { code: 'ENOENT' })
  assert.deepEqual(await filesIn(spec.directory), ['disk.raw'])
})

test('a disk is not copied for a caller that has given up', async () => {
  const spec = await standby()
  const before = await look(spec)
  const enough = new Error('enough')
  await assert.rejects(memory.restore(spec, await driver.stamp(), AbortSignal.abort(enough)), enough)
  assert.deepEqual(await look(spec), before)
  await memory.discardMemory(spec.directory)
  const shared = await look(spec)
  await assert.rejects(driver.boot(spec, AbortSignal.abort(enough)), enough)
  assert.deepEqual(await look(spec), shared)
})
