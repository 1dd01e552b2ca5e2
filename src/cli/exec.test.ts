// hypeman exec without a terminal: input, output, exit codes, refusals, and how it is cut off. With a terminal: terminal.test.ts.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { WebSocket } from 'ws'
import { frameText, startFakeServer } from '../../tests/support/fake-server.ts'
import { hypeman, startHypeman } from '../../tests/support/fake-terminal.ts'
import { until } from '../../tests/support/until.ts'

test('input goes to the command up to its end, output comes back, the exit code is passed on', async () => {
  await using server = await startFakeServer()
  let started: unknown
  server.onSocket('/instances/web/exec', (socket, start) => {
    started = start
    socket.on('message', (data, isBinary) => {
      if (isBinary) socket.send(Buffer.from(frameText(data).toUpperCase()))
      else if (frameText(data) === '{"eof":true}') finish(socket, 9)
    })
  })
  const words = ['exec', '-e', 'A=1', '-e', 'HERE', '--cwd', '/srv', '--timeout', '2m', 'web', '--', 'tr', '-d', 'x']
  const { code, stdout } = await hypeman(server.url, words, { input: 'some text', env: { HERE: 'yes' } })
  assert.deepEqual([code, stdout], [9, 'SOME TEXT'])
  assert.deepEqual(started, {
    command: ['tr', '-d', 'x'],
    tty: false,
    env: { A: '1', HERE: 'yes' },
    cwd: '/srv',
    timeout: 120,
    stdin_eof: true,
  })
})

test("a command that ends before its input leaves the rest unread, and the outcome is the command's", async () => {
  await using server = await startFakeServer()
  server.onSocket('/instances/web/exec', (socket) => finish(socket, 3))
  const running = startHypeman(server.url, ['exec', 'web', 'true'])
  running.stdin.write('never read')
  assert.equal((await running.ended).code, 3)
})

test('with --no-stdin the command finds its input at the end, and ours is left alone', async () => {
  await using server = await startFakeServer()
  server.onSocket('/instances/web/exec', (socket) => {
    socket.on('message', (data) => finish(socket, frameText(data) === '{"eof":true}' ? 0 : 1))
  })
  const running = startHypeman(server.url, ['exec', '--no-stdin', 'web', 'cat'])
  running.stdin.write('for the next command')
  assert.equal((await running.ended).code, 0)
  assert.equal(String(running.stdin.read()), 'for the next command')
})

test('an instance that does not run is an answer, not a broken connection', async () => {
  await using server = await startFakeServer()
  const { code, stderr } = await hypeman(server.url, ['exec', 'web', 'true'], { input: '' })
  assert.equal(code, 1)
  assert.match(stderr, /^Error: instance must be running \(current state: Stopped\)\nBring the instance/)
})

test('a connection that ends before the command did is a failure', async () => {
  await using server = await startFakeServer()
  server.onSocket('/instances/web/exec', (socket) => socket.close())
  const { code, stderr } = await hypeman(server.url, ['exec', 'web', 'true'], { input: '' })
  assert.equal(code, 1)
  assert.match(stderr, /the connection ended before the command did/)
})

test('an interrupt hangs up and ends with 130', async () => {
  await using server = await startFakeServer()
  let closed = false
  let started = false
  server.onSocket('/instances/web/exec', (socket) => {
    started = true
    socket.on('close', () => (closed = true))
  })
  const running = startHypeman(server.url, ['exec', 'web', 'sleep', '100'])
  await until('the command runs', () => started)
  running.interrupt()
  assert.equal((await running.ended).code, 130)
  await until('the server sees the connection closed', () => closed)
})

function finish(socket: WebSocket, exitCode: number): void {
  socket.send(JSON.stringify({ exitCode }))
  socket.close()
}
