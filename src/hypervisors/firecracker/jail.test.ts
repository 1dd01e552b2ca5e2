// The driver with its processes jailed by the stand-in for the jailer: what is in a jail, who may do what in it, and what is left of it.

import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { chmod, chown, link, mkdir, mkdtemp, rename, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, beforeEach, test } from 'node:test'
import { adoptProcess, killProcess, workingDirectory } from '../../platform/process.ts'
import { filesIn, paperFirecracker, tell } from '../../../tests/support/paper-firecracker.ts'
import type { Machine, MachineSpec } from '../driver.ts'
import { newJail, takeFromJail } from './jail.ts'

const isRoot = process.getuid?.() === 0
const skip = isRoot ? false : 'only root can make jails'
const standIn = path.resolve(import.meta.dirname, '../../../tests/vmm-stand-in/bin/jailer')
// The data directory has a name that shells and tables of mounts take apart unless it is quoted.
const home = path.join(await mkdtemp(path.join(os.tmpdir(), 'jail-')), `it's\\a "home"\tof $many #words`)
await mkdir(home)
const host = await paperFirecracker(home, 'on')
after(async () => {
  await host[Symbol.asyncDispose]()
  await rm(path.dirname(home), { recursive: true })
})
const { driver, memory } = host
const never = new AbortController().signal
const jailer = path.join(host.home, 'jailer')

/** Makes the jailer beside the program a shell script. */
async function installJailer(lines = `exec '${standIn}' "$@"`): Promise<void> {
  await writeFile(`${jailer}.new`, `#!/bin/sh\n${lines}\n`)
  await chmod(`${jailer}.new`, 0o755)
  await rename(`${jailer}.new`, jailer)
}
beforeEach(() => installJailer())

function uidOf({ process: { pid } }: Machine): number {
  return Number(/^Uid:\t(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1])
}

function rootOf({ process: { pid } }: Machine, ...names: string[]): string {
  return path.join(`/proc/${pid}/root`, ...names)
}

async function restored(payload: string): Promise<{ readonly machine: Machine; readonly spec: MachineSpec }> {
  const spec = host.spec(await host.directory())
  await driver.materialise(payload, spec.directory, true)
  return { machine: host.owns(await memory.restore(spec, await driver.stamp(), never)), spec }
}

test('a machine in a jail runs as a user of its own, has its files and no others, and leaves nothing behind', { skip }, async () => {
  const [one, other] = [await host.start(), await host.start()]
  assert.equal(await tell(one.machine, 'memory 7'), 'boot 7')
  assert.ok(uidOf(one.machine) > 65_536)
  assert.notEqual(uidOf(one.machine), uidOf(other.machine))
  assert.deepEqual(readdirSync(rootOf(one.machine, 'logs')), ['vmm.log'])
  assert.ok(!existsSync(rootOf(one.machine, host.layout.instances)), 'nothing of the data directory is in there')
  assert.equal(statSync(rootOf(one.machine, 'disk.raw')).ino, statSync(path.join(one.spec.directory, 'disk.raw')).ino)
  // Nothing of the jail is mounted where others see it, and no socket lies on disk.
  assert.deepEqual(readdirSync(path.join(one.spec.directory, 'jail.tmp', 'at')), [])
  assert.deepEqual(await filesIn(one.spec.directory), ['disk.raw', 'jail.tmp', 'memory.since'])
  await one.machine.kill()
  assert.deepEqual(await filesIn(one.spec.directory), ['disk.raw'])
})

test('what forks share they read without a copy, and can not write', { skip }, async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 kept')
  await tell(machine, 'disk kept')
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  assert.equal(statSync(path.join(payload, 'memory.image')).uid, 0)
  assert.deepEqual(readdirSync(path.join(spec.directory, 'jail.tmp', 'out')), [])
  const forks = [await restored(payload), await restored(payload)]
  for (const fork of forks) {
    const image = rootOf(fork.machine, 'memory.image')
    assert.equal(statSync(image).ino, statSync(path.join(payload, 'memory.image')).ino)
    await assert.rejects(writeFile(image, 'x', { flag: 'r+' }), { code: 'EROFS' })
    await fork.machine.resume()
    await memory.consumeMemory(fork.spec.directory)
    assert.deepEqual([await tell(fork.machine, 'memory 100'), await tell(fork.machine, 'disk')], ['kept', 'kept'])
  }
})

test('a machine that is suspended, restored and booted again in its directory is the same with and without a jail', { skip }, async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 kept')
  await machine.pause()
  await memory.suspend(machine, spec, never)
  await machine.kill()
  assert.deepEqual(await filesIn(spec.directory), ['disk.frozen', 'disk.raw', 'memory.image', 'memory.json', 'memory.state'])
  const bare = host.driverWith({ jailing: 'off' })
  for (const by of [bare, driver, bare]) {
    const again = host.owns((await by.memory?.restore(spec, await by.stamp(), never)) ?? assert.fail())
    assert.equal(uidOf(again) === 0, by === bare)
    await again.resume()
    assert.equal(await tell(again, 'memory 100'), 'kept')
    await again.kill()
  }
  await memory.discardMemory(spec.directory)
  const cold = host.owns(await driver.boot(spec, never))
  assert.equal(await tell(cold, 'memory 100'), '')
})

test(
  'a machine that was loaded ahead goes on when its directory gets another name, and a later server finds it there',
  { skip },
  async () => {
    const { machine: source, spec: of } = await host.start()
    const payload = await host.directory()
    await memory.capture(source, of, payload, never)
    const { machine, spec } = await restored(payload)
    const final = `${spec.directory}-final`
    await rename(spec.directory, final)
    machine.moved?.(final)
    await machine.resume()
    await memory.consumeMemory(final)
    assert.equal(await workingDirectory(machine.process.pid, host.layout.root), final)
    assert.equal(await driver.adopt(spec, machine.process), undefined)
    machine.release()
    const adopted = (await driver.adopt({ directory: final }, machine.process)) ?? assert.fail('it was not found')
    host.owns(adopted)
    assert.equal(await tell(adopted, 'memory 7'), 'boot 7')
    const later = await host.directory()
    await memory.capture(adopted, { ...spec, directory: final }, later, never)
    assert.equal(await memory.holdsMemory(later), true)
  },
)

test('memory that is discarded beside a jailed process is taken for that of a process that runs', { skip }, async () => {
  const { machine, spec } = await host.start()
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  const fork = await restored(payload)
  await fork.machine.resume()
  await tell(fork.machine, 'disk newer')
  await memory.discardMemory(fork.spec.directory)
  await fork.machine.kill()
  const again = host.owns(await driver.boot(fork.spec, never))
  assert.equal(await tell(again, 'disk'), 'newer')
})

test('a process that puts a link in the place of its socket leads the server nowhere', { skip }, async () => {
  const { machine } = await host.start()
  await rm(rootOf(machine, 'api.sock'))
  await assert.rejects(machine.status(), { code: 'host_unavailable', message: /may just have ended/ })
  await symlink('/run/other.sock', rootOf(machine, 'api.sock'))
  await assert.rejects(machine.status(), { code: 'host_unavailable', message: /is no socket/ })
})

test('only a plain file of the process itself is taken out of a jail', { skip }, async () => {
  const [directory, payload] = [await host.directory(), await host.directory()]
  const out = path.join(directory, 'jail.tmp', 'out')
  await mkdir(out, { recursive: true })
  using jail = newJail()
  const [file, written] = [path.join(payload, 'memory.state'), path.join(out, 'memory.state')]
  const secret = path.join(host.home, 'secret')
  await writeFile(secret, 'of the host')
  const make = {
    'a link': () => symlink(secret, written),
    'a file of another user': () => writeFile(written, 'x'),
    'a file with another name': async () => {
      await writeFile(written, 'x')
      await chown(written, jail.uid, jail.uid)
      await link(written, `${written}.2`)
    },
    'a directory': () => mkdir(written),
  }
  for (const [what, act] of Object.entries(make)) {
    await act()
    await assert.rejects(
      takeFromJail(directory, jail, file),
      { code: 'host_unavailable', message: /is not what Firecracker was to write/ },
      what,
    )
    assert.deepEqual(await filesIn(payload), [], what)
    await rm(written, { recursive: true })
  }
  await writeFile(written, 'good')
  await chown(written, jail.uid, jail.uid)
  await takeFromJail(directory, jail, file)
  const { uid, mode } = statSync(file)
  assert.deepEqual([readFileSync(file, 'utf8'), uid, mode & 0o777], ['good', 0, 0o600])
  assert.equal(readFileSync(secret, 'utf8'), 'of the host')
})

test('a jailer that is missing, of another version, or that refuses is told with what to do, and leaves nothing', { skip }, async () => {
  const { machine, spec } = await host.start()
  await machine.kill()
  const before = await filesIn(spec.directory)
  const cases = [
    [`[ "$1" = --version ] && echo 'Jailer v1.2.3'`, /jailer is version 1\.2\.3, and Firecracker 1\.14\.2; put the jailer/],
    [`[ "$1" = --version ] && exec '${standIn}' "$@"; echo 'no such luck'; exit 1`, /no such luck/],
    ['exit 3', /can't be jailed: .*jailer can't be run; .*turn the setting hypervisor\.jailer off/],
  ] as const
  for (const [lines, message] of cases) {
    await installJailer(lines)
    await assert.rejects(driver.boot(spec, never), { code: 'host_unavailable', message })
    assert.deepEqual(await filesIn(spec.directory), before)
  }
  await rm(jailer)
  assert.match((await driver.unavailable()) ?? '', /there is no program jailer beside .*turn the setting hypervisor\.jailer off/)
  await assert.rejects(driver.boot(spec, never), { code: 'host_unavailable', message: /there is no program jailer/ })
  const auto = host.driverWith({ jailing: 'auto' })
  assert.equal(await auto.unavailable(), undefined)
  const bare = host.owns(await auto.boot(spec, never))
  assert.equal(uidOf(bare), 0)
})

test('a file that a jail can not hold is refused with its name, and the process that was begun is gone', { skip }, async () => {
  const kernel = path.join(host.home, 'secret kernel')
  await writeFile(kernel, readFileSync(host.spec('/').kernel), { mode: 0o600 })
  await assert.rejects(host.start({ kernel }), { code: 'host_unavailable', message: /can't read .*secret kernel; let others read it/ })
  await chmod(kernel, 0o644)
  const { machine } = await host.start({ kernel })
  assert.equal(await machine.status(), 'running')
  const { process: identity } = machine
  await killProcess(identity)
  assert.equal(adoptProcess(identity), undefined)
})
