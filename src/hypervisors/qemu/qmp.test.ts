import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { setImmediate as turn } from 'node:timers/promises'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { fakeQmp, say, type FakeQmp, type FakeQmpOptions } from '../../../tests/support/fake-qmp.ts'
import { QmpClient, QmpError } from './qmp.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'qmp-'))
after(() => rm(root, { recursive: true }))
const never = new AbortController().signal
let count = 0

function serve(options: FakeQmpOptions): Promise<FakeQmp> {
  return fakeQmp(path.join(root, `${(count += 1)}.sock`), options)
}

test('commands get their own answers, whatever their order, and events in between are passed over', async () => {
  const asked: number[] = []
  await using server = await serve({
    answer: ({ id }, socket) => {
      asked.push(id)
      if (asked.length < 3) return
      for (const one of asked.toReversed()) {
        say(socket, { event: 'STOP', timestamp: { seconds: 1, microseconds: 2 } })
        say(socket, { return: { number: one }, id: one })
      }
    },
  })
  const client = await QmpClient.connect(server.file, never)
  assert.equal(client.version, '7.2.22')
  const answers = await Promise.all(['a', 'b', 'c'].map((name) => client.execute(name)))
  assert.deepEqual(
    answers,
    asked.map((number) => ({ number })),
  )
  assert.deepEqual(server.commands, ['qmp_capabilities', 'a', 'b', 'c'])
  client.close()
})

test("a refusal carries QEMU's words and the command's name, and the connection goes on", async () => {
  await using server = await serve({
    answer: ({ execute, id }, socket) =>
      say(socket, execute === 'bad' ? { error: { class: 'GenericError', desc: 'no such thing' }, id } : { return: 'fine', id }),
  })
  const client = await QmpClient.connect(server.file, never)
  await assert.rejects(client.execute('bad'), (error) => {
    assert.ok(error instanceof QmpError)
    assert.deepEqual([error.message, error.errorClass], ['QEMU refused bad: no such thing', 'GenericError'])
    return true
  })
  assert.equal(await client.execute('good'), 'fine')
  client.close()
})

test('messages are read however the stream is cut', async () => {
  await using server = await serve({
    answer: ({ id }, socket) => {
      const bytes = Buffer.from(`${JSON.stringify({ return: 'grün', id })}\r\n`)
      void (async () => {
        for (const byte of bytes) {
          socket.write(Buffer.of(byte))
          await turn()
        }
      })()
    },
  })
  const client = await QmpClient.connect(server.file, never)
  assert.equal(await client.execute('slow'), 'grün')
  client.close()
})

test('a server that hangs up fails every command that waits, and those that follow', async () => {
  await using server = await serve({ answer: (_, socket) => socket.destroy() })
  const client = await QmpClient.connect(server.file, never)
  const [one, other] = await Promise.allSettled([client.execute('a'), client.execute('b')])
  assert.deepEqual([one.status, other.status], ['rejected', 'rejected'])
  assert.equal(client.closed, true)
  await assert.rejects(client.execute('c'), /has closed its control socket/)
})

for (const [what, text] of [
  ['no JSON', 'HTTP/1.1 400 Bad Request\r\n\r\n'],
  ['JSON of another kind', '{"hello":"world"}\n'],
  ['a greeting without a version', '{"QMP":{}}\n'],
] as const)
  test(`a server that says ${what} is left at once, and the error quotes it`, async () => {
    await using server = await serve({ first: text, answer: () => undefined })
    await assert.rejects(QmpClient.connect(server.file, never), /said something unexpected on its control socket: (HTTP|\{)/)
  })

test('an answer to nobody is passed over', async () => {
  await using server = await serve({
    answer: ({ id }, socket) => {
      say(socket, { return: 'stray', id: 99 })
      say(socket, { error: { class: 'GenericError', desc: 'no id' } })
      say(socket, { return: 'mine', id })
    },
  })
  const client = await QmpClient.connect(server.file, never)
  assert.equal(await client.execute('a'), 'mine')
  client.close()
})

test('a message without an end is cut off before it fills the memory', async () => {
  await using server = await serve({
    answer: (_, socket) => {
      const piece = 'x'.repeat(256 * 1024)
      const more = (): void => {
        while (!socket.destroyed && socket.write(piece));
        if (!socket.destroyed) socket.once('drain', more)
      }
      more()
    },
  })
  const client = await QmpClient.connect(server.file, never)
  await assert.rejects(client.execute('flood'), /more than 4194304 characters without an end/)
  assert.equal(client.closed, true)
})

test('a flood of events neither fills the memory nor hides the answer', async () => {
  await using server = await serve({
    answer: ({ id }, socket) => {
      const event = `${JSON.stringify({ event: 'NOISE', data: { text: 'x'.repeat(1000) } })}\n`
      for (let sent = 0; sent < 20; sent += 1) socket.write(event.repeat(1000))
      say(socket, { return: 'after all', id })
    },
  })
  const client = await QmpClient.connect(server.file, never)
  assert.equal(await client.execute('a'), 'after all')
  client.close()
})

test('a server that reads nothing is noticed before its commands pile up', async () => {
  await using server = await serve({ answer: (_, socket) => socket.pause() })
  const client = await QmpClient.connect(server.file, never)
  const waiting: Promise<unknown>[] = []
  for (let sent = 0; sent < 100; sent += 1) waiting.push(client.execute('big', { text: 'x'.repeat(100_000) }))
  const outcomes = Promise.allSettled(waiting)
  await assert.rejects(client.execute('one more'), /reads nothing/)
  client.close()
  assert.ok((await outcomes).every(({ status }) => status === 'rejected'))
})

test('an abort gives up one command, or the connecting, with its own reason', async () => {
  await using server = await serve({ answer: ({ execute, id }, socket) => execute === 'heard' && say(socket, { return: 1, id }) })
  const client = await QmpClient.connect(server.file, never)
  const abort = new AbortController()
  const waiting = client.execute('ignored', {}, abort.signal)
  abort.abort(new Error('enough'))
  await assert.rejects(waiting, /enough/)
  await assert.rejects(client.execute('heard', {}, abort.signal), /enough/)
  assert.equal(await client.execute('heard'), 1)
  client.close()

  await using silent = await serve({ first: '', answer: () => undefined })
  const connecting = new AbortController()
  const attempt = QmpClient.connect(silent.file, connecting.signal)
  connecting.abort(new Error('too slow'))
  await assert.rejects(attempt, /too slow/)
  await assert.rejects(QmpClient.connect(silent.file, connecting.signal), /too slow/)
})

test('a socket that is not there is an error with its code', async () => {
  await assert.rejects(QmpClient.connect(path.join(root, 'none.sock'), never), { code: 'ENOENT' })
})

test('closing ends the connection on both sides', async () => {
  const ended = Promise.withResolvers<void>()
  await using server = await serve({
    answer: (_, socket) => {
      void once(socket, 'close').then(() => ended.resolve())
    },
  })
  const client = await QmpClient.connect(server.file, never)
  const waiting = client.execute('a')
  waiting.catch(() => undefined) // looked at below
  while (server.commands.length < 2) await turn()
  client.close(new Error('done'))
  await assert.rejects(waiting, /done/)
  await ended.promise
})
