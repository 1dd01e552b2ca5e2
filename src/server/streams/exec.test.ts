import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { test } from 'node:test'
import { WebSocket } from 'ws'
import type { Program } from '../../../tests/support/fake-agent.ts'
import { instanceView } from '../../../tests/support/fake-services.ts'
import { serveFakes, until, type HttpUnderTest } from '../../../tests/support/http-server.ts'

interface Received {
  readonly output: Buffer[]
  readonly texts: string[]
  code: number | undefined
}

async function serveWith(programs: Readonly<Record<string, Program>>): Promise<HttpUnderTest> {
  const server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  for (const [name, program] of Object.entries(programs)) server.services.agent.programs.set(name, program)
  return server
}

async function exec(
  server: HttpUnderTest,
  start: object | string | Buffer,
): Promise<{ socket: WebSocket; received: Received; closed: Promise<unknown> }> {
  const socket = server.open('/instances/web/exec')
  const received: Received = { output: [], texts: [], code: undefined }
  socket.on('message', (data: Buffer, isBinary) => {
    if (isBinary) received.output.push(data)
    else received.texts.push(data.toString('utf8'))
  })
  const closed = once(socket, 'close').then(([code]) => (received.code = code as number))
  await once(socket, 'open')
  socket.send(Buffer.isBuffer(start) || typeof start === 'string' ? start : JSON.stringify(start))
  return { socket, received, closed }
}

const outputOf = (received: Received): string => Buffer.concat(received.output).toString('utf8')

const cat: Program = async ({ input, print }) => {
  for await (const chunk of input) await print(chunk)
  return { exitCode: 0 }
}

test('a program gets what the first frame says, its output comes as binary frames and its exit code last', async () => {
  let asked: object | undefined
  await using server = await serveWith({
    async say({ request, print }) {
      asked = request
      await print('out\n')
      await print('err\n', 'stderr')
      return { exitCode: 3 }
    },
  })
  const start = { command: ['say', 'x'], env: { A: '1' }, cwd: '/tmp', timeout: 2, rows: 10, cols: 20, tty: true }
  const { received, closed } = await exec(server, start)
  await closed
  assert.deepEqual(asked, { argv: ['say', 'x'], tty: true, env: { A: '1' }, cwd: '/tmp', user: '', timeoutMs: 2000, rows: 10, cols: 20 })
  assert.equal(outputOf(received), 'out\nerr\n')
  assert.deepEqual(received.texts, ['{"exitCode":3}'])
  assert.equal(received.code, 1000)
  await until(() => server.log.some((line) => line['route'] === '/instances/:id/exec' && line['status'] === 101))
})

test('without a command it is the shell; null, as Go writes empty lists and maps, is absent', async () => {
  await using server = await serveWith({ '/bin/sh': async ({ request }) => ({ exitCode: request.argv.length }) })
  for (const start of [{}, { command: null, env: null, tty: null, wait_for_agent: null }, { command: [] }]) {
    const { received, closed } = await exec(server, start)
    await closed
    assert.deepEqual(received.texts, ['{"exitCode":0}'])
  }
})

test('long output comes in frames of at most 32 KiB', async () => {
  await using server = await serveWith({
    async flood({ print }) {
      for (let n = 0; n < 50; n += 1) await print(Buffer.alloc(65_536, n))
      return { exitCode: 0 }
    },
  })
  const { received, closed } = await exec(server, { command: ['flood'] })
  await closed
  assert.ok(received.output.every((frame) => frame.length <= 32 * 1024))
  assert.equal(Buffer.concat(received.output).length, 50 * 65_536)
})

test('binary frames and other text frames are input; resizes and, if asked for, the end of input are not', async () => {
  const sizes: object[] = []
  await using server = await serveWith({
    async cat(io) {
      const end = await cat(io)
      sizes.push(...io.resizes)
      return end
    },
  })
  const { socket, received, closed } = await exec(server, { command: ['cat'], tty: true, stdin_eof: true })
  for (const text of ['plain ', '{"resize":{"rows":5,"cols":6}}', '{"resize":"no"} ', '{"broken" ']) socket.send(text)
  socket.send(Buffer.from('{"eof":true} '))
  socket.send(Buffer.from([0, 255]))
  socket.send('{"eof":true}')
  await closed
  assert.deepEqual(
    Buffer.concat(received.output),
    Buffer.concat([Buffer.from('plain {"resize":"no"} {"broken" {"eof":true} '), Buffer.from([0, 255])]),
  )
  assert.deepEqual(sizes, [{ rows: 5, cols: 6 }])
})

test('without asking for it, an end of input is input like any other text', async () => {
  await using server = await serveWith({ cat })
  const { socket, received } = await exec(server, { command: ['cat'] })
  socket.send('{"eof":true}')
  await until(() => outputOf(received) === '{"eof":true}')
  socket.close()
})

test('a client that writes everything before it reads anything gets everything back', async () => {
  await using server = await serveWith({ cat })
  const { socket, received, closed } = await exec(server, { command: ['cat'], stdin_eof: true })
  socket.pause()
  const chunk = Buffer.alloc(64 * 1024, 'x')
  let written = 0
  for (let n = 0; n < 40; n += 1) socket.send(chunk, () => (written += 1))
  socket.send('{"eof":true}', () => (written += 1))
  await until(() => written === 41)
  socket.resume()
  await closed
  assert.equal(Buffer.concat(received.output).length, 40 * chunk.length)
})

test('input that comes as one message is taken however large it is', async () => {
  await using server = await serveWith({
    async count({ input }) {
      let bytes = 0
      for await (const chunk of input) bytes += chunk.length
      return { exitCode: bytes === 40 * 1024 ** 2 ? 0 : 1 }
    },
  })
  const { socket, received, closed } = await exec(server, { command: ['count'], stdin_eof: true })
  socket.send(Buffer.alloc(40 * 1024 ** 2, 'x'))
  socket.send('{"eof":true}')
  await closed
  assert.deepEqual(received.texts, ['{"exitCode":0}'])
})

test('text of more than 16 MiB ends the connection', async () => {
  await using server = await serveWith({ cat })
  const { socket, received, closed } = await exec(server, { command: ['cat'] })
  socket.on('error', () => undefined) // it may still be writing
  socket.send('x'.repeat(16 * 1024 ** 2 + 1))
  await closed
  assert.equal(received.code, 1009)
})

test('a program that reads nothing holds a client back that writes without end', async () => {
  await using server = await serveWith({
    async deaf({ hungUp }) {
      await once(hungUp, 'abort')
      return { exitCode: 0 }
    },
  })
  const { socket } = await exec(server, { command: ['deaf'] })
  const chunk = Buffer.alloc(1024 * 1024)
  let written = 0
  for (let n = 0; n < 64; n += 1) socket.send(chunk, () => (written += 1))
  let before = -1
  while (before !== written) {
    before = written
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  assert.ok(written < 40, `${written} MiB were taken`)
  socket.terminate()
})

test('many clients that read nothing are given less each, so that together they do not take up the server', async () => {
  const flood: Program = async ({ print, hungUp: signal }) => {
    while (!signal.aborted) await print(Buffer.alloc(65_536))
    return { exitCode: 0 }
  }
  await using server = await serveWith({ flood, cat })
  const floods = await Promise.all(Array.from({ length: 16 }, () => exec(server, { command: ['flood'] })))
  for (const { socket } of floods) socket.pause()
  const waiting = (): number => [...server.app.websocketServer.clients].reduce((sum, { bufferedAmount }) => sum + bufferedAmount, 0)
  await until(() => waiting() > 24 * 1024 ** 2, 20_000)
  let before = -1
  while (before !== waiting()) {
    before = waiting()
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
  assert.ok(before < 42 * 1024 ** 2, `${before} bytes wait`)
  const other = await exec(server, { command: ['cat'], stdin_eof: true })
  other.socket.send(Buffer.alloc(600_000, 'x'))
  other.socket.send('{"eof":true}')
  await other.closed
  assert.equal(Buffer.concat(other.received.output).length, 600_000)
  for (const { socket } of floods) socket.terminate()
  // What they left unread is no longer counted: a client may write much again before it reads.
  await until(() => server.app.websocketServer.clients.size === 0)
  const late = await exec(server, { command: ['cat'], stdin_eof: true })
  late.socket.pause()
  let written = 0
  for (let n = 0; n < 40; n += 1) late.socket.send(Buffer.alloc(65_536), () => (written += 1))
  await until(() => written === 40)
  late.socket.terminate()
})

test('a program that can not be started says why and ends with 127', async () => {
  await using server = await serveWith({})
  const { received, closed } = await exec(server, { command: ['nonsense'] })
  await closed
  assert.equal(outputOf(received), 'Error: nonsense: not found\r\n')
  assert.deepEqual(received.texts, ['{"exitCode":127}'])
})

test('a program whose end nobody saw does not look like success', async () => {
  await using server = await serveWith({
    async vanish({ print }) {
      await print('half')
      throw new Error('the channel is gone')
    },
  })
  const { received, closed } = await exec(server, { command: ['vanish'] })
  await closed
  assert.equal(outputOf(received), 'halfError: the channel is gone\r\n')
  assert.deepEqual(received.texts, ['{"exitCode":255}'])
})

test('a client that vanishes hangs the program up, also while output waits for it', async () => {
  const hungUp: string[] = []
  const flood: Program = async ({ print, hungUp: signal }) => {
    while (!signal.aborted) await print(Buffer.alloc(65_536))
    hungUp.push('flood')
    return { exitCode: 0 }
  }
  const quiet: Program = async ({ hungUp: signal }) => {
    await once(signal, 'abort')
    hungUp.push('quiet')
    return { exitCode: 0 }
  }
  await using server = await serveWith({ flood, quiet })
  const noisy = await exec(server, { command: ['flood'] })
  await until(() => noisy.received.output.length > 0)
  noisy.socket.pause()
  const silent = await exec(server, { command: ['quiet'] })
  await until(() => server.services.calls.filter(([operation]) => operation === 'agent').length === 4)
  noisy.socket.terminate()
  silent.socket.terminate()
  await until(() => hungUp.length === 2)
})

test('when the server stops, programs are hung up and their clients are told', async () => {
  await using server = await serveWith({
    async quiet({ hungUp, print }) {
      await print('here')
      await once(hungUp, 'abort')
      return { exitCode: 0 }
    },
  })
  const { received, closed } = await exec(server, { command: ['quiet'] })
  await until(() => outputOf(received) === 'here')
  server.stop()
  await closed
  assert.equal(outputOf(received), 'hereError: the server is stopping\r\n')
  assert.deepEqual(received.texts, ['{"exitCode":255}'])
})

test('a first frame that is not JSON text is refused in the words of the reference', async () => {
  await using server = await serveWith({ cat })
  for (const [start, wanted] of [
    [Buffer.from('{}'), /^\{"error":"first message must be JSON text"\}$/],
    ['not json', /^\{"error":"invalid JSON: /],
    ['{"command":"ls"}', /^\{"error":"invalid JSON: command: /],
  ] as const) {
    const { received, closed } = await exec(server, start)
    await closed
    assert.equal(received.texts.length, 1)
    assert.match(received.texts[0] ?? '', wanted)
  }
})

test('who may not, what does not exist and what does not run is refused before the upgrade', async () => {
  await using server = await serveWith({ cat })
  server.services.instancesById.set('stopped', instanceView('stopped', 'Stopped'))
  for (const operation of ['exec', 'cp']) {
    for (const [id, status, code] of [
      ['nobody', 404, 'not_found'],
      ['stopped', 409, 'invalid_state'],
    ] as const) {
      const [, response] = (await once(server.open(`/instances/${id}/${operation}`), 'unexpected-response')) as [unknown, IncomingMessage]
      assert.equal(response.statusCode, status)
      const body = Buffer.concat(await Array.fromAsync(response as AsyncIterable<Buffer>)).toString('utf8')
      assert.equal((JSON.parse(body) as { code: string }).code, code)
    }
    const plain = await server.fetch(`/instances/web/${operation}`)
    assert.deepEqual([plain.status, ((await plain.json()) as { code: string }).code], [400, 'invalid_request'])
    const anonymous = new WebSocket(`${server.url.replace('http', 'ws')}/instances/web/${operation}`)
    const [, refusal] = (await once(anonymous, 'unexpected-response')) as [unknown, IncomingMessage]
    assert.equal(refusal.statusCode, 401)
    refusal.resume()
  }
})

test('an instance that still boots is waited for as long as the first frame says', async () => {
  await using server = await serveWith({ cat })
  server.services.instancesById.set('web', instanceView('web', 'Initializing'))
  const { received, closed } = await exec(server, { command: ['true'] })
  await closed
  assert.match(outputOf(received), /^Error: instance must be running/)
  const waiting = await exec(server, { command: ['cat'], wait_for_agent: 5 })
  waiting.socket.send(Buffer.from('x'))
  await until(() => outputOf(waiting.received) === 'x')
  assert.deepEqual(server.services.calls.at(-1), ['agent', 'web', 5000])
  waiting.socket.close()
})
