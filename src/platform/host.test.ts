// The probes on the host that runs the tests: each must tell both outcomes apart and leave nothing behind.

import assert from 'node:assert/strict'
import { mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { judgeAccelerator } from './accelerator.ts'
import { probeRights } from './host-rights.ts'
import { probeHost, type Probe } from './host.ts'
import { filesystemOf, probeStorage, refuseUnsuitable, unsuitable } from './host-storage.ts'

test('a data directory that does not exist yet is judged by its parent and not made', async () => {
  await using scratch = await temporaryDirectory()
  const probes = await probeStorage(path.join(scratch.path, 'not', 'yet'))
  assert.equal(named(probes, 'data directory').ok, true)
  assert.match(named(probes, 'data directory').value, /can be made$/)
  assert.deepEqual(await readdir(scratch.path), [])
})

test('a data directory that cannot be made is reported, with what to do', async () => {
  const [writable] = await probeStorage('/proc/self/no-such-place')
  assert.equal(writable?.ok, false)
  assert.equal(writable.essential, true)
  assert.match(writable.fix ?? '', /--data-dir/)
})

test('a path that leaves no room for sockets is found before anything is made', async () => {
  const fits = named(await probeStorage('/tmp'), 'socket paths')
  const tooLong = named(await probeStorage(`/tmp/${'x'.repeat(60)}`), 'socket paths')
  assert.deepEqual([fits.ok, tooLong.ok], [true, false])
})

test('the rights probes leave no tap device and no process', async () => {
  const before = await readdir('/sys/class/net')
  const probes = await probeRights()
  assert.deepEqual(
    probes.map((probe) => probe.name),
    ['userfaultfd', 'tap devices', 'memory of children'],
  )
  assert.deepEqual(
    (await readdir('/sys/class/net')).filter((name) => name.startsWith('hmprobe')),
    before.filter((name) => name.startsWith('hmprobe')),
  )
})

test('guest parts that are absent or damaged are essential and missing', async () => {
  await using scratch = await temporaryDirectory()
  const look = async (): Promise<Probe> =>
    named(await probeHost(scratch.path, { assets: scratch.path, cacheFile: path.join(scratch.path, 'verdict') }), 'guest parts')
  assert.match((await look()).value, /ENOENT/)
  await writeFile(path.join(scratch.path, 'assets.json'), '{"kernel_version": 6}')
  assert.match((await look()).value, /damaged/)
  await writeFile(path.join(scratch.path, 'assets.json'), '{"kernel_version":"6.1","agent_version":"abc"}')
  assert.deepEqual([(await look()).ok, (await look()).value], [true, 'kernel 6.1, agent abc'])
})

test('without a guest kernel to try, machines get emulation and nothing is cached', async () => {
  await using scratch = await temporaryDirectory()
  const cacheFile = path.join(scratch.path, 'verdict')
  const verdict = await judgeAccelerator({ kernel: path.join(scratch.path, 'vmlinuz'), cacheFile })
  assert.equal(verdict.accelerator, 'tcg')
  await assert.rejects(stat(cacheFile), { code: 'ENOENT' })
})

test('a kernel that does not boot gives emulation, and the verdict is kept in the file', { skip: await noKvm() }, async () => {
  await using scratch = await temporaryDirectory()
  const kernel = path.join(scratch.path, 'vmlinuz')
  const cacheFile = path.join(scratch.path, 'cache', 'verdict')
  await writeFile(kernel, 'no kernel')
  const verdict = await judgeAccelerator({ kernel, cacheFile })
  assert.equal(verdict.accelerator, 'tcg')
  assert.match(verdict.reason, /^\/dev\/kvm opens, but/)
  assert.match(await readFile(cacheFile, 'utf8'), /"accelerator":"tcg"/)
})

test('a cached verdict is taken only for this boot, QEMU, kernel and user', { skip: await noKvm() }, async () => {
  await using scratch = await temporaryDirectory()
  const kernel = path.join(scratch.path, 'vmlinuz')
  const cacheFile = path.join(scratch.path, 'verdict')
  await writeFile(kernel, 'no kernel')
  await writeFile(cacheFile, JSON.stringify({ key: 'another boot', accelerator: 'kvm', reason: 'planted' }))
  assert.equal((await judgeAccelerator({ kernel, cacheFile })).accelerator, 'tcg')
  const { key } = JSON.parse(await readFile(cacheFile, 'utf8')) as { key: string }
  const copy = path.join(scratch.path, 'copy')
  await writeFile(copy, JSON.stringify({ key, accelerator: 'kvm', reason: 'kept' }))
  assert.deepEqual(await judgeAccelerator({ kernel, cacheFile: copy }), { accelerator: 'kvm', reason: 'kept' })
  assert.equal((await judgeAccelerator({ kernel, cacheFile: copy, fresh: true })).accelerator, 'tcg')
})

test('a home that cannot be written costs nothing but another try', { skip: await noKvm() }, async () => {
  await using scratch = await temporaryDirectory()
  const kernel = path.join(scratch.path, 'vmlinuz')
  const file = path.join(scratch.path, 'file')
  await writeFile(kernel, 'no kernel')
  await writeFile(file, '')
  assert.equal((await judgeAccelerator({ kernel, cacheFile: path.join(file, 'below', 'verdict') })).accelerator, 'tcg')
})

async function noKvm(): Promise<string | false> {
  return stat('/dev/kvm').then(
    () => false as const,
    () => 'this host has no /dev/kvm to try',
  )
}

function named(probes: readonly Probe[], name: string): Probe {
  const probe = probes.find((one) => one.name === name)
  assert.ok(probe, `no probe is named ${name}`)
  return probe
}

async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const directory = await mkdtemp(path.join(tmpdir(), 'host-'))
  return { path: directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
}

test('the server refuses a filesystem without sparse files or hard links, naming path, filesystem and both; one that has them is taken', async () => {
  await using scratch = await temporaryDirectory()
  await refuseUnsuitable(scratch.path)
  assert.deepEqual(await readdir(scratch.path), [])
  const lack = (name: string): Probe => ({ name, ok: false, essential: true, value: 'not kept', means: 'it matters' })
  const error = unsuitable('/data', 'vfat', [lack('sparse files'), lack('hard links')])
  assert.equal(error.code, 'storage_unsuitable')
  assert.equal(
    error.message,
    '/data is on vfat, which keeps no sparse files (not kept): it matters; and no hard links (not kept): it matters; put the data directory (--data-dir, DATA_DIR) on ext4, XFS or btrfs',
  )
})

test('the filesystem of a path is the one that is mounted nearest above it', async () => {
  assert.equal(filesystemOf('/proc/self'), 'proc')
  assert.equal(filesystemOf('/sys'), 'sysfs')
  assert.notEqual(filesystemOf('/processes'), 'proc')
})
