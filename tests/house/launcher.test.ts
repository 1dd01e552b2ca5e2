// bin/hypeman: finds its own package and the pinned Node however it is called.

import assert from 'node:assert/strict'
import { copyFile, mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { run } from '../support/command.ts'

const launcher = path.join(import.meta.dirname, '..', '..', 'bin', 'hypeman')

test('through relative and absolute links, from any directory, the arguments reach main.ts on the pinned Node', async () => {
  await using tree = await packageTree()
  await symlink(process.execPath, path.join(tree.path, 'package/node_modules/.bin/node'))
  await symlink('../package/bin/hypeman', path.join(tree.path, 'links/relative'))
  await symlink(path.join(tree.path, 'links/relative'), path.join(tree.path, 'links/absolute'))
  for (const command of ['package/bin/hypeman', 'links/relative', 'links/absolute']) {
    const { code, stdout, stderr } = await run(path.join(tree.path, command), ['run', 'a b', '--', '-x'], { cwd: '/', env: tree.env })
    assert.deepEqual([code, stderr], [3, ''])
    assert.deepEqual(JSON.parse(stdout), { args: ['run', 'a b', '--', '-x'], version: process.version })
  }
})

test('without the pinned Node it says what to run, and exits 1', async () => {
  await using tree = await packageTree()
  const { code, stdout, stderr } = await run(path.join(tree.path, 'package/bin/hypeman'), ['--help'], { env: tree.env })
  assert.deepEqual([code, stdout], [1, ''])
  assert.match(stderr, /^hypeman: the Node that this package pins is missing .*npm run setup\n$/)
})

async function packageTree(): Promise<AsyncDisposable & { readonly path: string; readonly env: NodeJS.ProcessEnv }> {
  const tree = await realpath(await mkdtemp(path.join(tmpdir(), 'launcher-')))
  for (const folder of ['package/bin', 'package/src', 'package/node_modules/.bin', 'links'])
    await mkdir(path.join(tree, folder), { recursive: true })
  await copyFile(launcher, path.join(tree, 'package/bin/hypeman'))
  const main = 'console.log(JSON.stringify({ args: process.argv.slice(2), version: process.version }))\nprocess.exitCode = 3\n'
  await writeFile(path.join(tree, 'package/src/main.ts'), main)
  await writeFile(path.join(tree, 'package/package.json'), '{"type":"module"}')
  const env = { PATH: '/usr/bin:/bin', XDG_CACHE_HOME: path.join(tree, 'cache') }
  return { path: tree, env, [Symbol.asyncDispose]: () => rm(tree, { recursive: true }) }
}
