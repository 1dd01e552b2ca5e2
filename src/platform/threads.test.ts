// What a thread waits for, as this host's kernel tells it.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeSync } from 'node:fs'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { openPipe } from './pipe.ts'
import { hasThreadIn } from './threads.ts'

test('a process that writes into a full pipe is seen to wait in it, and no more when it was read', async () => {
  using pipe = openPipe(4096)
  writeSync(pipe.writeEnd, Buffer.alloc(4096))
  const child = spawn('sh', ['-c', 'echo more; sleep 60'], { stdio: ['ignore', pipe.writeEnd, 'ignore'] })
  const ended = once(child, 'exit') // of itself, when nobody is left to read
  try {
    await once(child, 'spawn')
    const pid = child.pid ?? 0
    const until = async (wanted: boolean): Promise<void> => {
      for (const deadline = performance.now() + 20_000; (await hasThreadIn(pid, 'pipe_write')) !== wanted; await delay(5))
        assert.ok(performance.now() < deadline)
    }
    await until(true)
    pipe[Symbol.dispose]()
    await until(false)
  } finally {
    child.kill('SIGKILL')
    await ended
  }
})

test('a process that is not there waits for nothing', async () => {
  assert.equal(await hasThreadIn(2 ** 30, ''), false)
})
