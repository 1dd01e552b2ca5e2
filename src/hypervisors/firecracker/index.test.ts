// The driver on the stand-in with guests of paper: what is frozen, what runs again, and what is left when something fails.

import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, test } from 'node:test'
import { identityOf, isAlive } from '../../platform/process.ts'
import { filesIn, paperFirecracker, tell } from '../../../tests/support/paper-firecracker.ts'
import { until } from '../../../tests/support/until.ts'
import type { MachineSpec } from '../driver.ts'
import { FirecrackerMachine } from './machine.ts'

const host = await paperFirecracker()
after(() => host[Symbol.asyncDispose]())
const { driver, memory } = host
const never = new AbortController().signal
const running = ['api.sock', 'disk.raw', 'memory.since', 'vsock.sock']
const image = ['disk.frozen', 'memory.image', 'memory.json', 'memory.state']

test('a machine boots on a disk of its own, is paused and resumed at will, and its guest is reached by vsock', async () => {
  const { machine, spec } = await host.start()
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(spec.directory), running)
  assert.equal((await stat(path.join(spec.directory, 'disk.raw'))).nlink, 1)
  assert.equal(await tell(machine, 'memory 7'), 'boot 7')
  for (const round of [1, 2]) {
    await machine.pause()
    assert.equal(await machine.status(), 'paused', String(round))
  }
  for (const round of [1, 2]) {
    await machine.resume()
    assert.equal(await machine.status(), 'running', String(round))
  }
  await tell(machine, 'reset')
  assert.match((await machine.exited).reason, /code 0/)
})

test('a process tells by its arguments whose it is, so that a server without a record of it finds it', async () => {
  const { machine, spec } = await host.start()
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  for (const one of [{ machine, spec }, await host.fork(payload)]) {
    const commandLine = await readFile(`/proc/${one.machine.process.pid}/cmdline`, 'utf8')
    assert.ok(commandLine.split('\0').includes(`hypeman-${one.spec.instanceId}`), commandLine)
  }
})

test('a capture freezes memory and disk of one instant, the machine goes on, and forks share neither', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 before')
  await tell(machine, 'disk before')
  const payload = await host.directory()
  const report = await memory.capture(machine, spec, payload, never)
  assert.deepEqual([report.notResumed, report.note], [undefined, undefined])
  assert.equal(await machine.status(), 'running')
  assert.deepEqual(await filesIn(payload), image)
  const { size, blocks } = await stat(path.join(payload, 'memory.image'))
  assert.equal(size, 8 * 1024 ** 2)
  assert.ok(blocks * 512 <= 16 * 4096, 'what the guest never wrote are holes')
  await tell(machine, 'memory 100 after')
  await tell(machine, 'disk after')
  for (const name of ['one', 'other']) {
    const fork = await host.fork(payload)
    for (const what of ['memory 100', 'disk']) {
      assert.equal(await tell(fork.machine, what), 'before')
      await tell(fork.machine, `${what} ${name}`)
      assert.equal(await tell(fork.machine, what), name)
    }
    assert.deepEqual(await filesIn(fork.spec.directory), running)
    assert.equal(await memory.holdsMemory(fork.spec.directory), false)
  }
  assert.deepEqual([await tell(machine, 'memory 100'), await tell(machine, 'disk')], ['after', 'after'])
})

test('later snapshots, of the machine and of its forks, hold what was written since over what was there', async () => {
  const { machine, spec } = await host.start()
  const payloads: string[] = []
  for (const round of [1, 2, 3]) {
    await tell(machine, `memory 200 round ${round}`)
    await tell(machine, `memory ${200 + round} only ${round}`)
    const payload = await host.directory()
    await memory.capture(machine, spec, payload, never)
    payloads.push(payload)
  }
  for (const [index, payload] of payloads.entries()) {
    const fork = await host.fork(payload)
    assert.equal(await tell(fork.machine, 'memory 200'), `round ${index + 1}`)
    for (const round of [1, 2, 3])
      assert.equal(await tell(fork.machine, `memory ${200 + round}`), round <= index + 1 ? `only ${round}` : '')
    const again = await host.directory()
    await memory.capture(fork.machine, fork.spec, again, never)
    const child = await host.fork(again)
    assert.equal(await tell(child.machine, 'memory 201'), 'only 1')
  }
})

test('a suspended machine can be ended and restored in place, again and again; what it was frozen with stays until it is used up', async () => {
  const { machine: first, spec } = await host.start()
  let machine = first
  for (const round of [1, 2, 3]) {
    await tell(machine, `memory 100 ${round}`)
    await tell(machine, `disk ${round}`)
    await machine.pause()
    await memory.suspend(machine, spec, never)
    assert.equal(await machine.status(), 'paused')
    assert.equal(await memory.holdsMemory(spec.directory), true)
    await machine.kill()
    const before = await filesIn(spec.directory)
    // One that is restored and lost before it was of use leaves the image as it was.
    const lost = await memory.restore(spec, await driver.stamp(), never)
    await lost.resume()
    await tell(lost, 'disk lost')
    await lost.kill()
    machine = host.owns(await memory.restore(spec, await driver.stamp(), never))
    await machine.resume()
    assert.deepEqual([await tell(machine, 'memory 100'), await tell(machine, 'disk')], [String(round), String(round)])
    await memory.consumeMemory(spec.directory)
    assert.deepEqual(await filesIn(spec.directory), running)
    assert.ok(before.includes('memory.json'))
  }
})

test('a machine that goes on after it was suspended drops its image, also when another server has adopted it', async () => {
  const { machine, spec } = await host.start()
  await machine.pause()
  await memory.suspend(machine, spec, never)
  const adopted = await driver.adopt(spec, machine.process)
  assert.ok(adopted)
  await adopted.resume()
  assert.deepEqual([await memory.holdsMemory(spec.directory), await filesIn(spec.directory)], [false, running])
  const payload = await host.directory()
  await memory.capture(adopted, spec, payload, never)
  assert.equal(await tell((await host.fork(payload)).machine, 'memory 7'), 'boot 7')
  adopted.release()
  assert.equal(await driver.adopt({ directory: await host.directory() }, machine.process), undefined)
})

test('a capture that fails leaves the machine running, and the next one is whole', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'memory 100 kept')
  const missing = path.join(host.layout.staging, 'none', 'at', 'all')
  await assert.rejects(memory.capture(machine, spec, missing, never))
  assert.equal(await machine.status(), 'running')
  assert.equal((await memory.capture(machine, spec, await host.directory(), never)).note, undefined)

  assert.ok(machine instanceof FirecrackerMachine)
  await assert.rejects(machine.ask({ method: 'PUT', path: '/none' }), { code: 'host_unavailable', message: /refused PUT \/none/ })
  const ask = machine.ask.bind(machine)
  machine.ask = (request) => (request.path === '/snapshot/create' ? Promise.reject(new Error('a fault')) : ask(request))
  await assert.rejects(memory.capture(machine, spec, await host.directory(), never), /a fault/)
  assert.equal(await machine.status(), 'running')
  machine.ask = ask
  const payload = await host.directory()
  const report = await memory.capture(machine, spec, payload, never)
  assert.match(report.note ?? '', /all of its memory was written/)
  assert.equal(await tell((await host.fork(payload)).machine, 'memory 100'), 'kept')
})

test('disks are shared by links while nobody writes, exported and imported, and made longer', async () => {
  const { machine, spec } = await host.start()
  await tell(machine, 'disk first')
  await machine.kill()
  const payload = await host.directory()
  await driver.share(spec.directory, payload, false)
  assert.deepEqual(await filesIn(payload), ['disk.frozen'])
  const again = host.owns(await driver.boot(spec, never))
  await tell(again, 'disk second')
  const other = host.spec(await host.directory())
  await driver.materialise(payload, other.directory, false)
  assert.equal(await tell(host.owns(await driver.boot(other, never)), 'disk'), 'first')
  await again.kill()

  const file = path.join(await host.directory(), 'exported.raw')
  await driver.exportDisk(spec.directory, file, never)
  const imported = host.spec(await host.directory())
  await driver.importDisk(imported.directory, file)
  const { size } = await stat(path.join(imported.directory, 'disk.raw'))
  {
    await using undone = await driver.addDiskParts(imported.directory, [1024 ** 2])
    assert.equal(undone.parts.length, 1)
  }
  assert.equal((await stat(path.join(imported.directory, 'disk.raw'))).size, size)
  {
    await using _longer = await driver.growDisk(imported.directory, size + 1024 ** 2)
    assert.equal((await stat(path.join(imported.directory, 'disk.raw'))).size, size + 1024 ** 2)
  }
  assert.equal((await stat(path.join(imported.directory, 'disk.raw'))).size, size)
  const { parts } = await driver.addDiskParts(imported.directory, [2 * 1024 ** 2, 1024 ** 2])
  const disk = await readFile(path.join(imported.directory, 'disk.raw'))
  for (const { offsetBytes } of parts) assert.equal(disk.readUInt16LE(offsetBytes + 1024 + 56), 0xef53, 'an ext4 begins there')
  assert.equal(await tell(host.owns(await driver.boot(imported, never)), 'disk'), 'second')
})

async function gone(spec: MachineSpec): Promise<void> {
  const files = await filesIn(spec.directory)
  assert.deepEqual(
    files.filter((name) => name.endsWith('.sock')),
    [],
  )
}

test('a program that is missing, too old or without KVM is not available, and says what to do', async () => {
  assert.match(
    (await host.driverWith({ command: '/none/firecracker' }).unavailable()) ?? '',
    /\/none\/firecracker can't be run; install it/,
  )
  assert.equal(await driver.unavailable(), undefined)
  assert.equal(await host.driverWith({ whyNoKvm: 'no KVM' }).unavailable(), 'no KVM')
  try {
    await host.installScript('echo "Firecracker v1.7.0"')
    const old = host.driverWith({})
    assert.match((await old.unavailable()) ?? '', /1\.7\.0 is too old/)
    const spec = host.spec(await host.directory())
    await assert.rejects(old.boot(spec, never), { code: 'host_unavailable' })
  } finally {
    await host.install()
  }
})

test('a start that fails leaves no process and no socket, and tells what the program said', async () => {
  const cases = {
    'dies at once': ['echo "no such luck"; exit 3', /no such luck/],
    'says another version than it is': [
      `STAND_IN_VERSION=1.99.0 ${host.standIn.replace('exec ', 'exec ')}`,
      /1\.99\.0 now instead of 1\.14\.2/,
    ],
    'answers with nonsense': [
      `exec '${process.execPath}' -e 'require("http").createServer((q, r) => r.end("<html>")).listen(process.argv[2])' -- "$@"`,
      /no JSON: <html>/,
    ],
  } as const
  for (const [what, [script, words]] of Object.entries(cases)) {
    const other = host.driverWith({})
    await host.install()
    assert.equal((await other.stamp()).version, '1.14.2')
    const spec = host.spec(await host.directory())
    await other.createDisk(spec.directory, 8 * 1024 ** 2)
    try {
      await host.installScript(script)
      await assert.rejects(other.boot(spec, never), words, what)
    } finally {
      await host.install()
    }
    await gone(spec)
  }
})

test('a program that never listens is given up with the call', async () => {
  const spec = host.spec(await host.directory())
  await driver.createDisk(spec.directory, 8 * 1024 ** 2)
  const pidFile = path.join(spec.directory, 'test.pid')
  try {
    await host.installScript(`echo $$ > '${pidFile}'; exec sleep 1000`)
    const impatient = new AbortController()
    const booting = driver.boot(spec, impatient.signal)
    booting.catch(() => undefined)
    await until('it was started', async () => (await readFile(pidFile, 'utf8').catch(() => '')).endsWith('\n'))
    const identity = identityOf(Number(await readFile(pidFile, 'utf8')))
    assert.ok(identity)
    impatient.abort(new Error('enough'))
    await assert.rejects(booting, /enough/)
    assert.equal(isAlive(identity), false)
  } finally {
    await host.install()
  }
  await gone(spec)
})

test('images that are damaged, of another version or of another machine are refused before the guest runs, and stay as they are', async () => {
  const { machine, spec } = await host.start()
  const payload = await host.directory()
  await memory.capture(machine, spec, payload, never)
  const state = await readFile(path.join(payload, 'memory.state'))
  const restore = async (
    change: (directory: string) => Promise<unknown>,
    stamp = {},
    other: Partial<MachineSpec> = {},
  ): Promise<unknown> => {
    const fork = { ...host.spec(await host.directory()), ...other }
    await driver.materialise(payload, fork.directory, true)
    await change(fork.directory)
    try {
      return await memory.restore(fork, { ...(await driver.stamp()), ...stamp }, never)
    } finally {
      await gone(fork)
      assert.equal(await memory.holdsMemory(fork.directory), true)
    }
  }
  const replace = (directory: string, content: Buffer): Promise<void> =>
    import('node:fs/promises').then(async ({ rm }) => {
      await rm(path.join(directory, 'memory.state'))
      await writeFile(path.join(directory, 'memory.state'), content)
    })
  const nothing = async (): Promise<void> => undefined
  await assert.rejects(restore(nothing, { version: '1.13.0' }), { code: 'incompatible_version', message: /1\.13\.0.*1\.14\.2/ })
  await assert.rejects(
    restore((directory) => replace(directory, Buffer.from(state.toString('latin1').replace('"version":"8', '"version":"9'), 'latin1'))),
    { code: 'host_unavailable', message: /Invalid snapshot version/ },
  )
  await assert.rejects(
    restore((directory) => replace(directory, Buffer.from('damaged'))),
    { code: 'host_unavailable' },
  )
  // As long as it was.
  const changed = (from: string, to: string): Promise<unknown> => {
    assert.ok(state.toString('latin1').includes(from))
    return restore((directory) => replace(directory, Buffer.from(state.toString('latin1').replace(from, to), 'latin1')))
  }
  const foreign = { code: 'conflict', message: /not this instance's/ }
  await assert.rejects(changed('"path_on_host":"disk.raw"', '"path_on_host":"/etc/motd"'), foreign)
  await assert.rejects(changed('"is_read_only":true', '"is_read_only":false'), { ...foreign, message: /vmlinux writable/ })
  await assert.rejects(restore(nothing, {}, { memoryMib: 16 }), { code: 'conflict', message: /8388608 bytes/ })
})

test('a process that is killed while it is restored, or afterwards, is noticed', async () => {
  const { machine } = await host.start()
  process.kill(machine.process.pid, 'SIGKILL')
  assert.match((await machine.exited).reason, /SIGKILL/)
  await assert.rejects(machine.status(), { code: 'host_unavailable', message: /it may just have ended/ })
  await machine.kill()
})
