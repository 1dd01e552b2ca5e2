import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { adoptProcess, identityOf, isAlive, killProcess, spawnDetached } from './process.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-process-'))
after(() => rm(root, { recursive: true }))
const logFile = path.join(root, 'log')

test('a detached process writes to its log, inherits files, and its end is told', async () => {
  await writeFile(path.join(root, 'input'), 'inherited')
  // It must not end before it has been seen to run.
  const gate = path.join(root, 'gate')
  execFileSync('mkfifo', [gate])
  const started = await spawnDetached({
    command: 'sh',
    args: ['-c', 'cat <&3; read _ <gate; exit 7'],
    cwd: root,
    logFile,
    inherit: [path.join(root, 'input')],
  })
  await writeFile(gate, '\n')
  assert.deepEqual(await started.exited, { code: 7, reason: 'exited with code 7' })
  assert.equal(await readFile(logFile, 'utf8'), 'inherited')
})

test('a program that ends at once is no fault of the server, whether or not it was seen to run', async () => {
  const outcomes = await Promise.allSettled(
    Array.from({ length: 30 }, async () => (await spawnDetached({ command: 'true', args: [], cwd: root, logFile })).exited),
  )
  for (const outcome of outcomes)
    if (outcome.status === 'fulfilled') assert.equal(outcome.value.code, 0)
    else assert.ok(isHypemanError(outcome.reason, 'host_unavailable'), String(outcome.reason))
})

test('killing waits until the process is gone; an adopted process is noticed to be gone', async () => {
  const { identity, exited } = await spawnDetached({ command: 'sleep', args: ['1000'], cwd: root, logFile })
  const adopted = adoptProcess(identity)
  assert.ok(adopted)
  await killProcess(identity)
  assert.equal(isAlive(identity), false)
  assert.equal((await exited).reason, 'killed by SIGKILL')
  await adopted.exited
  assert.equal(adoptProcess(identity), undefined)
  await killProcess(identity)
})

test('a pid that belongs to another process by now is neither adopted nor killed', async () => {
  const { identity, exited } = await spawnDetached({ command: 'sleep', args: ['1000'], cwd: root, logFile })
  const former = { ...identity, startTicks: '1' }
  assert.equal(adoptProcess(former), undefined)
  await killProcess(former)
  assert.ok(isAlive(identity))
  await killProcess(identity)
  await exited
})

test('a program that does not exist is an error, not a process', async () => {
  await assert.rejects(spawnDetached({ command: path.join(root, 'missing'), args: [], cwd: root, logFile }), /ENOENT/)
})

test('a pid of nobody has no identity', () => {
  assert.equal(identityOf(2 ** 22 + 1), undefined)
})

test('a server without a descriptor to spare takes no process for gone, and starts none that lacks what it should inherit', async () => {
  const script = path.join(root, 'starved.mjs')
  await writeFile(
    script,
    `
    import { openSync } from 'node:fs'
    import assert from 'node:assert/strict'
    import { adoptProcess, identityOf, isAlive, killProcess } from '${import.meta.dirname}/process.ts'
    import { spawnSession } from '${import.meta.dirname}/spawn.ts'
    const own = identityOf(process.pid)
    spawnSession({ command: 'true', args: [], cwd: '/', env: { PATH: '/usr/bin:/bin' }, descriptors: [] })
    assert.ok(isAlive(own))
    const { exited } = adoptProcess(own)
    let ended = false
    void exited.then(() => { ended = true })
    const held = []
    try { for (;;) held.push(openSync('/dev/null', 'r')) } catch { /* there are no more */ }
    assert.throws(() => isAlive(own), { code: 'EMFILE' })
    await assert.rejects(killProcess(own), { code: 'EMFILE' })
    assert.throws(() => spawnSession({ command: '/bin/true', args: [], cwd: '/', env: {}, descriptors: held.slice(-3) }))
    // Longer than it is looked at an adopted process.
    await new Promise((resolve) => setTimeout(resolve, 300))
    assert.equal(ended, false)
    console.log('as it should be')
    process.exit(0)
    `,
  )
  assert.equal(execFileSync('sh', ['-c', `ulimit -n 80; exec ${process.execPath} ${script}`], { encoding: 'utf8' }), 'as it should be\n')
})
