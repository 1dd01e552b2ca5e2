import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { describeExit, exitOf } from './exit.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'hypeman-exit-'))
after(() => rm(root, { recursive: true }))
await mkdir(path.join(root, 'logs'))
const started = { programStartedAt: '2026-01-01T00:00:00Z' }

async function exitAfter(console: string): ReturnType<typeof exitOf> {
  await writeFile(path.join(root, 'logs/console.log'), console)
  return exitOf(root, started)
}

test('the exit line of this boot tells code and message', async () => {
  assert.deepEqual(
    await exitAfter('HYPEMAN-BOOT t\nHYPEMAN-EXIT {"exit_code":3,"message":"exited with code 3"}\r\n[ 1.0] reboot: Power down\n'),
    { code: 3, message: 'exited with code 3' },
  )
})

test('the exit line of an earlier boot does not count', async () => {
  assert.equal(await exitAfter('HYPEMAN-EXIT {"exit_code":3}\nHYPEMAN-BOOT t\n'), null)
})

test('a guest that ended before its program was started says so', async () => {
  await writeFile(path.join(root, 'logs/console.log'), 'HYPEMAN-BOOT t\n')
  assert.match((await exitOf(root, { programStartedAt: null }))?.message ?? '', /before its program/)
})

test('a signal and the OOM killer are put in words', () => {
  assert.deepEqual(describeExit('{"exit_code":137,"signal":"SIGKILL","oom":true}'), { code: 137, message: 'killed by SIGKILL - OOM' })
})

test('an unreadable line is reported as such, without a code', () => {
  assert.equal(describeExit('{"exit_code":')?.code, null)
})
