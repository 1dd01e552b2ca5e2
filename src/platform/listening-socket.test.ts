import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { listenOn } from './listening-socket.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'listening-'))
after(() => rm(root, { recursive: true }))

test('who connects before the process is there is answered by it', async () => {
  const file = path.join(root, 'early.sock')
  const listening = listenOn(file, 1)
  const early = connect(file)
  await once(early, 'connect')
  const program = "require('node:net').createServer((s) => s.end('hello')).listen({ fd: 3 })"
  const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'inherit', 'inherit', listening.fd] })
  listening[Symbol.dispose]()
  try {
    const [said] = (await once(early, 'data')) as [Buffer]
    assert.equal(said.toString(), 'hello')
  } finally {
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    early.destroy()
  }
})

test('when nobody has it any more, nobody can connect', async () => {
  const file = path.join(root, 'left.sock')
  listenOn(file, 1)[Symbol.dispose]()
  const [error] = (await once(connect(file), 'error')) as [NodeJS.ErrnoException]
  assert.equal(error.code, 'ECONNREFUSED')
})

test('a path that is taken or too long is refused by name', () => {
  const file = path.join(root, 'taken.sock')
  using _listening = listenOn(file, 1)
  assert.throws(() => listenOn(file, 1), /taken\.sock can't be listened on/)
  assert.throws(() => listenOn(path.join(root, 'x'.repeat(108)), 1), /longer than the 107 bytes/)
})
