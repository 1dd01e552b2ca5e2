// Which program is taken: by its place, by its version, and when it is gone.

import assert from 'node:assert/strict'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import fc from 'fast-check'
import { isHypemanError } from '../api/errors.ts'
import { run } from '../../tests/support/command.ts'
import { findBinaries, installedVersions, type Binaries } from './binaries.ts'

const root = await mkdtemp(path.join(tmpdir(), 'binaries-'))
after(() => rm(root, { recursive: true, force: true }))

let homes = 0
const freshHome = (): string => path.join(root, `home-${(homes += 1)}`)

/** A program that says that version. */
async function program(file: string, version: string): Promise<string> {
  await mkdir(path.dirname(file), { recursive: true })
  await writeFile(file, `#!/bin/sh\necho "vmm v${version}"\n`, { mode: 0o755 })
  return file
}

const install = (home: string, version: string, says = version): Promise<string> => program(path.join(home, version, 'vmm'), says)

function binariesOf(home: string, command = 'vmm-that-is-nowhere'): Binaries {
  return findBinaries({ command, installed: { directory: home, program: 'vmm' }, pattern: /v(\d\S*)/, advice: 'install it' })
}

/** Where a shell finds a program. */
async function onPathOf(name: string): Promise<string> {
  const { stdout } = await run('sh', ['-c', `command -v ${name}`])
  return stdout.trim()
}

test('new machines start on the newest version that is installed', async () => {
  const home = freshHome()
  await install(home, '1.9.2')
  const newest = await install(home, '1.10.0')
  await install(home, '1.10.0-rc1')
  assert.deepEqual(await binariesOf(home).usual(), { path: newest, version: '1.10.0' })
})

test('a configured program comes before all that is installed, and these are still found by their version', async () => {
  const home = freshHome()
  const configured = await program(path.join(freshHome(), 'mine'), '3.0.0')
  const old = await install(home, '1.0.0')
  const binaries = binariesOf(home, configured)
  assert.deepEqual(await binaries.usual(), { path: configured, version: '3.0.0' })
  assert.deepEqual(await binaries.of('1.0.0'), { path: old, version: '1.0.0' })
  assert.deepEqual(await binaries.of('3.0.0'), { path: configured, version: '3.0.0' })
})

test('where none is installed the one on PATH is taken, and it is found by its version where another is installed', async () => {
  const home = freshHome()
  const onPath = findBinaries({
    command: 'node',
    installed: { directory: home, program: 'node' },
    pattern: /v(\d\S*)/,
    advice: 'install it',
  })
  assert.deepEqual(await onPath.usual(), { path: await onPathOf('node'), version: process.versions.node })
  await program(path.join(home, '999.0.0', 'node'), '999.0.0')
  onPath.forget()
  assert.equal((await onPath.usual()).version, '999.0.0')
  assert.deepEqual(await onPath.of(process.versions.node), { path: await onPathOf('node'), version: process.versions.node })
})

test('a version that is not here is undefined, also where no program can be run at all', async () => {
  const home = freshHome()
  assert.equal(await binariesOf(home).of('1.0.0'), undefined)
  await install(home, '1.0.0')
  assert.equal(await binariesOf(home).of('2.0.0'), undefined)
})

test('a directory whose program says another version is not taken for the one that it is named after', async () => {
  const home = freshHome()
  await install(home, '1.0.0')
  await install(home, '0.9.0', '0.8.0')
  assert.equal(await binariesOf(home).of('0.9.0'), undefined)
})

test('a version leads to no file outside its directory', async () => {
  const home = freshHome()
  await install(home, '1.0.0')
  await program(path.join(home, '..', 'vmm'), '../1')
  for (const version of ['..', '../1', '.', '', '/', '1/../..']) assert.equal(await binariesOf(home).of(version), undefined, version)
})

test('no program is an error that says what to do, and one that is installed later is found', async () => {
  const home = freshHome()
  const binaries = binariesOf(home)
  await assert.rejects(binaries.usual(), (error) => isHypemanError(error, 'host_unavailable') && error.message.endsWith('install it'))
  await install(home, '1.0.0')
  assert.equal((await binaries.usual()).version, '1.0.0')
})

test('an installed version that does not run is an error that names it, not a reason to take another one', async () => {
  const home = freshHome()
  await install(home, '1.0.0')
  await writeFile(await install(home, '2.0.0'), '#!/bin/sh\nexit 1\n')
  const refusal = (error: unknown): boolean =>
    isHypemanError(error, 'host_unavailable') && /install version 2\.0\.0 again/.test(error.message)
  await assert.rejects(binariesOf(home).usual(), refusal)
})

test('the usual one stays the same until it is gone or forgotten, whatever is installed meanwhile', async () => {
  const home = freshHome()
  await install(home, '1.0.0')
  const binaries = binariesOf(home)
  assert.equal((await binaries.usual()).version, '1.0.0')
  await install(home, '2.0.0')
  assert.equal((await binaries.usual()).version, '1.0.0')
  await rm(path.join(home, '1.0.0'), { recursive: true })
  assert.equal((await binaries.usual()).version, '2.0.0')
  await install(home, '3.0.0')
  binaries.forget()
  assert.equal((await binaries.usual()).version, '3.0.0')
})

test('versions are ordered by their numbers, and files of other names are none', async () => {
  const home = freshHome()
  await mkdir(path.join(home, '5.0.0'), { recursive: true })
  await mkdir(path.join(home, 'lock'), { recursive: true })
  const numbers = fc.tuple(fc.nat(20), fc.nat(20), fc.nat(20))
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(numbers, { selector: String, minLength: 1, maxLength: 5 }), async (versions) => {
      const directory = freshHome()
      for (const version of versions) await install(directory, version.join('.'))
      const found = await installedVersions({ directory, program: 'vmm' })
      const value = ([major, minor, patch]: readonly [number, number, number]): number => (major * 100 + minor) * 100 + patch
      const expected = versions.toSorted((one, other) => value(other) - value(one)).map((version) => version.join('.'))
      assert.deepEqual(
        found.map(({ version }) => version),
        expected,
      )
    }),
    { numRuns: 20 },
  )
  assert.deepEqual(await installedVersions({ directory: home, program: 'vmm' }), [])
})

test('a program that is found by its name has an absolute path, whatever PATH is when it is started', async () => {
  const [first, second] = [freshHome(), freshHome()]
  await mkdir(path.join(first, 'on-path-alone'), { recursive: true })
  const file = await program(path.join(second, 'on-path-alone'), '4.0.0')
  const before = process.env['PATH']
  process.env['PATH'] = ['', first, second].join(path.delimiter)
  try {
    const binaries = findBinaries({ command: 'on-path-alone', pattern: /v(\d\S*)/, advice: 'install it' })
    // The shell of its first line is found all the same.
    assert.deepEqual(await binaries.usual(), { path: file, version: '4.0.0' })
  } finally {
    process.env['PATH'] = before
  }
})

test('a version is asked for once, until its program is gone or forgotten', async () => {
  const home = freshHome()
  await install(home, '2.0.0')
  const asked = path.join(home, 'asked')
  const file = await install(home, '1.0.0')
  await writeFile(file, `#!/bin/sh\necho >> ${asked}\necho v1.0.0\n`)
  const times = async (): Promise<number> => (await readFile(asked, 'utf8')).length
  const binaries = binariesOf(home)
  for (const _time of [1, 2, 3]) assert.deepEqual(await binaries.of('1.0.0'), { path: file, version: '1.0.0' })
  assert.equal(await times(), 1)
  binaries.forget()
  await binaries.of('1.0.0')
  assert.equal(await times(), 2)
  await rm(file)
  assert.equal(await binaries.of('1.0.0'), undefined)
  await install(home, '1.0.0')
  assert.deepEqual(await binaries.of('1.0.0'), { path: file, version: '1.0.0' })
})
