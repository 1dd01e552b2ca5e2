// scripts/setup in a copy of what it reads: what it finds, what it refuses to take for intact, and that looking changes nothing.
// Installing for real is what scripts/test does before any test runs.

import assert from 'node:assert/strict'
import { copyFile, cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../support/command.ts'

const root = path.join(import.meta.dirname, '..', '..')

test('--check in a tree without assets names them, exits 1 and makes nothing', async () => {
  await using tree = await checkout()
  const { code, stdout } = await run('scripts/setup', ['--check'], { cwd: tree.path })
  assert.equal(code, 1)
  assert.match(stdout, /^ {2}kernel +MISSING: the guest kernel/m)
  assert.match(stdout, /^ {2}base image +MISSING: \.assets\/base\.oci\.tar$/m)
  assert.match(stdout, /Something is missing: run scripts\/setup\.\n$/)
  assert.doesNotMatch(stdout, /forks image/, 'it is for who asks for it')
  const asked = await run('scripts/setup', ['--check', '--forks-image'], { cwd: tree.path })
  assert.equal(asked.code, 1)
  assert.match(asked.stdout, /^ {2}forks image MISSING: \.assets\/forks\.oci\.tar$/m)
  assert.ok(!(await readdir(tree.path)).includes('.assets'))
})

test('--check where all is in place exits 0; a damaged asset and changed sources are told apart from it', async () => {
  await using tree = await checkout()
  await copyAssets(tree.path)
  const check = () => run('scripts/setup', ['--check'], { cwd: tree.path })
  const intact = await check()
  assert.deepEqual([intact.code, intact.stdout.split('\n').at(-2)], [0, 'Everything is in place.'], intact.stdout)

  const base = path.join(tree.path, '.assets/base.oci.tar')
  const bytes = await readFile(base)
  await writeFile(base, bytes.subarray(0, bytes.length - 512))
  const damaged = await check()
  assert.equal(damaged.code, 1)
  assert.match(damaged.stdout, /^ {2}base image +MISSING: an intact \.assets\/base\.oci\.tar$/m)

  await writeFile(base, bytes)
  await writeFile(path.join(tree.path, 'guest/added.go'), 'package main\n')
  const changed = await check()
  assert.match(changed.stdout, /^ {2}agent +MISSING: \.assets\/agent of the present sources$/m)
})

test('an unknown argument is refused with the usage', async () => {
  const { code, stderr } = await run(path.join(root, 'scripts/setup'), ['--chekc'])
  assert.equal(code, 2)
  assert.match(stderr, /^Usage: scripts\/setup/)
})

test('node_modules that differ from the lock file are told by the first difference', async () => {
  await using tree = await temporaryDirectory()
  const lock = {
    packages: { '': {}, 'node_modules/a': { version: '1.0.0' }, 'node_modules/other-platform': { version: '1.0.0', optional: true } },
  }
  const match = () => run(process.execPath, [path.join(root, 'scripts/lib/node-modules-match.ts'), tree.path])
  const install = (packages: Record<string, unknown>) =>
    writeFile(path.join(tree.path, 'node_modules/.package-lock.json'), JSON.stringify({ packages }))
  await writeFile(path.join(tree.path, 'package-lock.json'), JSON.stringify(lock))
  await mkdir(path.join(tree.path, 'node_modules'))
  assert.deepEqual(await match(), { code: 1, stdout: '', stderr: 'node_modules is not the work of a finished npm ci\n' })
  await install({ 'node_modules/a': { version: '1.0.0' } })
  assert.equal((await match()).code, 0)
  await install({ 'node_modules/a': { version: '1.0.1' } })
  assert.equal((await match()).stderr, 'node_modules/a: 1.0.0 is locked, 1.0.1 is installed\n')
  await install({ 'node_modules/a': { version: '1.0.0' }, 'node_modules/b': { version: '1.0.0' } })
  assert.equal((await match()).stderr, 'node_modules/b is installed but not locked\n')
})

// Hundreds of short processes, each slow to start on a machine that is busy.
test('the base image is the same, byte for byte, each time, and skopeo reads its two layers', { timeout: 240_000 }, async () => {
  await using scratch = await temporaryDirectory()
  const [one, two] = [path.join(scratch.path, 'one.tar'), path.join(scratch.path, 'two.tar')]
  for (const out of [one, two]) assert.equal((await run(path.join(root, 'scripts/build-base-image'), [out])).code, 0)
  assert.ok((await readFile(one)).equals(await readFile(two)))
  const { stdout } = await run('skopeo', ['inspect', '--config', `oci-archive:${one}`])
  const { config, rootfs } = JSON.parse(stdout) as { config: { Cmd: string[] }; rootfs: { diff_ids: string[] } }
  assert.equal(config.Cmd[0], '/bin/sh')
  assert.equal(rootfs.diff_ids.length, 2)
})

/** What the set-up reads, with this tree's node_modules. */
async function checkout(): Promise<AsyncDisposable & { readonly path: string }> {
  const tree = await temporaryDirectory()
  for (const entry of ['scripts', 'guest', 'package.json', 'package-lock.json'])
    await cp(path.join(root, entry), path.join(tree.path, entry), { recursive: true })
  await symlink(path.join(root, 'node_modules'), path.join(tree.path, 'node_modules'))
  return tree
}

/** The unpacked kernel and the image for test:forks are large and only looked at, so that they are linked; the rest is small, or damaged by the test. */
async function copyAssets(tree: string): Promise<void> {
  await mkdir(path.join(tree, '.assets'))
  for (const entry of await readdir(path.join(root, '.assets'))) {
    const [from, to] = [path.join(root, '.assets', entry), path.join(tree, '.assets', entry)]
    await (entry === 'kernel' || entry === 'forks.oci.tar' ? symlink(from, to) : copyFile(from, to))
  }
}

async function temporaryDirectory(): Promise<AsyncDisposable & { readonly path: string }> {
  const directory = await mkdtemp(path.join(tmpdir(), 'setup-'))
  return { path: directory, [Symbol.asyncDispose]: () => rm(directory, { recursive: true }) }
}
