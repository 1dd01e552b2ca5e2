import assert from 'node:assert/strict'
import { spawn as nodeSpawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { spawnSession, type Spawned } from './spawn.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-spawn-'))
after(() => rm(root, { recursive: true }))
const env = { PATH: '/nowhere:/usr/bin:/bin', WORD: 'told' }

/** Runs a script of the shell to its end; returns what it wrote. */
async function output(script: string, extra: readonly number[] = []): Promise<string> {
  const file = path.join(root, 'output')
  const out = openSync(file, 'w')
  const { exited } = spawnSession({ command: 'sh', args: ['-c', script], cwd: root, env, descriptors: [out, out, ...extra] })
  closeSync(out)
  assert.deepEqual(await exited, { code: 0, signal: null })
  return readFileSync(file, 'utf8')
}

test('a process has the directory, the environment and the arguments that it was given, and no others', async () => {
  assert.equal(await output('pwd; echo $WORD; echo $HOME; readlink /proc/self/fd/0'), `${root}\ntold\n\n/dev/null\n`)
})

test('it leads a session of its own, and no signal is ignored or blocked', async () => {
  const said = await output('cut -d" " -f1,6 /proc/$$/stat; exec grep -E "Sig(Blk|Ign)" /proc/self/status')
  const [, pid, session] = /^(\d+) (\d+)$/m.exec(said) ?? []
  assert.equal(session, pid)
  // But for the two that the C library keeps to itself, 32 and 33.
  assert.match(said, /SigBlk:\t0+\nSigIgn:\t0+(?:180000000)?\n/)
})

test('descriptors become its own in their order, whatever their numbers here, and it has no others', async () => {
  const files = ['first', 'second', 'third'].map((name) => path.join(root, name))
  for (const file of files) await writeFile(file, `${path.basename(file)}\n`)
  const open = files.map((file) => openSync(file, 'r'))
  assert.equal(await output('cat <&3; cat <&4; cat <&5; ls /proc/$$/fd', open.toReversed()), 'third\nsecond\nfirst\n0\n1\n2\n3\n4\n5\n')
  for (const fd of open) closeSync(fd)
})

test('the ends of many that end at once are all told, with their codes and signals', async () => {
  const start = (script: string): Spawned => spawnSession({ command: 'sh', args: ['-c', script], cwd: root, env, descriptors: [] })
  const codes = Array.from({ length: 20 }, (_, index) => start(`exit ${index}`))
  const killed = start('kill -TERM $$')
  const ends = await Promise.all(codes.map(({ exited }) => exited))
  assert.deepEqual(
    ends.map(({ code }) => code),
    codes.map((_, index) => index),
  )
  assert.deepEqual(await killed.exited, { code: null, signal: 'SIGTERM' })
})

test("Node's own processes end beside them as ever", async () => {
  const { exited } = spawnSession({ command: 'sleep', args: ['0.1'], cwd: root, env, descriptors: [] })
  const own = nodeSpawn('sh', ['-c', 'exit 5'])
  assert.deepEqual(await once(own, 'exit'), [5, null])
  assert.deepEqual(await exited, { code: 0, signal: null })
})

test('what can not be run is an error with the code of the system, and leaves nothing behind', async () => {
  const start = (command: string, cwd = root): Spawned => spawnSession({ command, args: [], cwd, env, descriptors: [] })
  await writeFile(path.join(root, 'plain'), 'no program')
  assert.throws(() => start('no-such-program'), { code: 'ENOENT' })
  assert.throws(() => start(path.join(root, 'plain')), { code: 'EACCES' })
  assert.throws(() => start('true', path.join(root, 'nowhere')), { code: 'ENOENT' })
  assert.equal(process.listenerCount('SIGCHLD'), 0)
})
