// The proxy over real sockets: who is answered, where they get to, what is passed on, and that nobody takes more than their part. A guest here is an address of loopback.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer, request, type IncomingMessage, type RequestListener, type RequestOptions } from 'node:http'
import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { pino } from 'pino'
import { until } from '../../tests/support/until.ts'
import { egressLimits, openEgressProxy, type EgressLimits, type EgressProxy } from './egress-proxy.ts'

const [GUEST, STRANGER, THIRD] = ['127.0.0.2', '127.0.0.3', '127.0.0.4']
/** Where the world is here; the proxy is elsewhere. */
const WORLD = '127.0.0.9'

interface Parts {
  readonly limits?: Partial<EgressLimits>
  readonly names?: Readonly<Record<string, readonly string[]>>
}

async function openProxy({ limits = {}, names = {} }: Parts = {}): Promise<EgressProxy> {
  const proxy = await openEgressProxy({
    ...{ host: '127.0.0.1', port: 0, log: pino({ level: 'silent' }), limits: { ...egressLimits, ...limits } },
    resolve: (name) => {
      const addresses = names[name]
      return addresses === undefined ? Promise.reject(new Error('no such name')) : Promise.resolve(addresses)
    },
    refusal: (address) => Promise.resolve(address === WORLD ? undefined : 'not of the world'),
  })
  proxy.admit(GUEST)
  return proxy
}

async function listening(server: Server, address = WORLD): Promise<{ readonly port: number } & AsyncDisposable> {
  server.listen(0, address)
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      if ('closeAllConnections' in server) (server as ReturnType<typeof createHttpServer>).closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
const web = (answer: RequestListener) => listening(createHttpServer(answer))
const echo = () => listening(createServer({ allowHalfOpen: true }, (socket) => socket.on('error', () => socket.destroy()).pipe(socket)))

interface Asked extends RequestOptions {
  readonly from?: string
  readonly body?: string
}

async function ask(
  proxy: EgressProxy,
  path: string,
  { from = GUEST, body = '', ...rest }: Asked = {},
): Promise<IncomingMessage & { text: string }> {
  const outgoing = request({ host: '127.0.0.1', port: proxy.port, localAddress: from, path, agent: false, ...rest })
  outgoing.end(body)
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  return Object.assign(incoming, { text: await text(incoming) })
}

/** A tunnel, and what the proxy says to it. */
async function tunnel(
  proxy: EgressProxy,
  target: string,
  from = GUEST,
): Promise<{ readonly status: number; readonly socket: Socket; readonly text: string }> {
  const socket = connect({ host: '127.0.0.1', port: proxy.port, localAddress: from, allowHalfOpen: true })
  socket.write(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`)
  const [data] = (await once(socket, 'data')) as [Buffer]
  return { status: Number(/^HTTP\/1\.1 (\d+) /.exec(data.toString())?.[1]), socket, text: data.toString() }
}

/** Resolves when it is closed, with or without an error. */
const closing = (socket: Socket): Promise<void> =>
  new Promise((resolve) => socket.on('error', () => undefined).once('close', () => resolve()))

test('a request is passed on with its path, method, body and headers, but for those of the connection; so is the answer', async () => {
  await using proxy = await openProxy()
  await using site = await web((incoming, response) => {
    void text(incoming).then((body) => {
      response.writeHead(201, { 'set-cookie': ['a=1', 'b=2'], 'x-more': 'yes', connection: 'x-more' })
      response.end(JSON.stringify({ method: incoming.method, url: incoming.url, headers: incoming.headers, body }))
    })
  })
  const url = `http://${WORLD}:${site.port}/a/../b?c=d`
  const headers = { 'x-own': '1', connection: 'x-hop', 'x-hop': '1', 'proxy-authorization': 'secret', 'content-length': '4' }
  const answer = await ask(proxy, url, { method: 'POST', headers, body: 'body' })
  assert.deepEqual([answer.statusCode, answer.headers['set-cookie'], answer.headers['x-more']], [201, ['a=1', 'b=2'], undefined])
  const seen = JSON.parse(answer.text) as { method: string; url: string; body: string; headers: Record<string, string> }
  assert.deepEqual([seen.method, seen.url, seen.body], ['POST', '/a/../b?c=d', 'body'])
  assert.deepEqual([seen.headers['host'], seen.headers['x-own'], seen.headers['via']], [`${WORLD}:${site.port}`, '1', '1.1 hypeman'])
  for (const name of ['x-hop', 'proxy-authorization']) assert.equal(seen.headers[name], undefined, name)
})

test('bodies without a length and methods without a body are passed on as they are', async () => {
  await using proxy = await openProxy()
  await using site = await web((incoming, response) => void text(incoming).then((body) => response.end(`${incoming.method} ${body}`)))
  const url = `http://${WORLD}:${site.port}/`
  for (const [method, headers, body] of [
    ['PUT', { 'transfer-encoding': 'chunked' }, 'in chunks'],
    ['DELETE', { 'transfer-encoding': 'chunked' }, 'in chunks'],
    ['POST', { 'content-length': '0' }, ''],
    ['GET', {}, ''],
  ] as const)
    assert.equal((await ask(proxy, url, { method, headers, body })).text, `${method} ${body}`)
  assert.equal((await ask(proxy, url, { method: 'HEAD' })).text, '')
  assert.equal((await ask(proxy, `http://${WORLD}:${site.port}`)).text, 'GET ')
})

/** An origin that says the same to everybody as soon as it was asked anything, reads no further and keeps the connection. */
async function hasty(answer: string): Promise<{ readonly port: number } & AsyncDisposable> {
  const sockets: Socket[] = []
  const server = await listening(
    createServer((socket) => {
      sockets.push(socket)
      socket.on('error', () => undefined).once('data', () => socket.pause().write(answer))
    }),
  )
  return {
    port: server.port,
    async [Symbol.asyncDispose]() {
      // One that does not read never hears that the other side has gone.
      for (const socket of sockets) socket.destroy()
      await server[Symbol.asyncDispose]()
    },
  }
}

test('an answer before the end of the body arrives, also where the guest sends all of the body first', async () => {
  await using proxy = await openProxy()
  await using site = await hasty('HTTP/1.1 413 Too Much\r\ncontent-length: 8\r\n\r\ntoo much')
  const body = 'x'.repeat(20_000_000)
  const socket = connect({ host: '127.0.0.1', port: proxy.port, localAddress: GUEST })
  const head = `POST http://${WORLD}:${site.port}/ HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n`
  // Reads nothing until everything is sent.
  await new Promise<void>((resolve, reject) =>
    socket.once('error', reject).write(head + body, (error) => (error ? reject(error) : resolve())),
  )
  const [answer] = (await once(socket, 'data')) as [Buffer]
  assert.match(answer.toString(), /^HTTP\/1\.1 413 /)
  socket.write(`GET /origin-form HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`)
  assert.match(await text(socket), /HTTP\/1\.1 400 /, 'and the next request is answered')
})

test('an origin that changes the protocol unasked, or closes without an answer, is told as an error at once', async () => {
  await using proxy = await openProxy({ limits: { idleMs: 10_000 } })
  await using changing = await hasty('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n')
  const changed = await ask(proxy, `http://${WORLD}:${changing.port}/`)
  assert.deepEqual([changed.statusCode, /another protocol/.test(changed.text)], [502, true])
  await using silent = await listening(createServer((socket) => void socket.once('data', () => socket.end())))
  assert.equal((await ask(proxy, `http://${WORLD}:${silent.port}/`)).statusCode, 502)
})

test('of a name with many addresses no more are judged than are tried', async () => {
  const judged: string[] = []
  const many = Array.from({ length: 500 }, (_, at) => `192.0.2.${at % 250}`)
  await using proxy = await openEgressProxy({
    ...{ host: '127.0.0.1', port: 0, log: pino({ level: 'silent' }), resolve: () => Promise.resolve(many) },
    refusal: (address) => Promise.resolve(`no place of ${judged.push(address)}`),
  })
  proxy.admit(GUEST)
  assert.equal((await ask(proxy, 'http://many.example/')).statusCode, 403)
  assert.equal(judged.length, 4)
})

test('a tunnel passes bytes both ways, and each direction ends by itself', async () => {
  await using proxy = await openProxy({ names: { 'echo.example': [WORLD] } })
  await using service = await echo()
  const { status, socket } = await tunnel(proxy, `echo.example:${service.port}`)
  assert.equal(status, 200)
  const bytes = 'x'.repeat(1_000_000)
  socket.end(bytes)
  assert.equal((await text(socket)).length, bytes.length)
})

test('who is no guest, or no more, is not answered', async () => {
  await using proxy = await openProxy()
  await using service = await echo()
  await assert.rejects(ask(proxy, `http://${WORLD}:${service.port}/`, { from: STRANGER }), /ECONNRESET|socket hang up/)
  const { socket } = await tunnel(proxy, `${WORLD}:${service.port}`)
  const broken = closing(socket)
  proxy.dismiss(GUEST)
  await broken
  await assert.rejects(ask(proxy, `http://${WORLD}:${service.port}/`), /ECONNRESET|socket hang up/)
})

test('the connection that the proxy has made for a guest ends with the guest', async () => {
  await using proxy = await openProxy()
  const ended = Promise.withResolvers<undefined>()
  await using service = await listening(
    createServer((socket) =>
      socket
        .resume()
        .on('error', () => undefined)
        .once('close', () => ended.resolve(undefined)),
    ),
  )
  const { socket } = await tunnel(proxy, `${WORLD}:${service.port}`)
  socket.on('error', () => undefined)
  proxy.dismiss(GUEST)
  await ended.promise
})

test('what is not to be reached is refused, by address and by name, as soon as it is known where the name leads', async () => {
  await using proxy = await openProxy({ names: { 'inside.example': ['127.0.0.1'], 'both.example': ['127.0.0.1', WORLD] } })
  let isReached = false
  const listener = createHttpServer((_request, response) => {
    isReached = true
    response.end()
  })
  await using inside = await listening(listener, '127.0.0.1')
  const { port } = inside
  for (const host of ['127.0.0.1', '127.1', '2130706433', '0x7f000001', 'inside.example', '[::ffff:127.0.0.1]', '[::1]']) {
    const answer = await ask(proxy, `http://${host}:${port}/`)
    assert.equal(answer.statusCode, 403, host)
    assert.match(answer.text, /^hypeman: .*not of the world/)
    const { status, socket } = await tunnel(proxy, `${host}:${port}`)
    socket.destroy()
    assert.equal(status, 403, host)
  }
  assert.ok(!isReached)
  await using site = await web((_request, response) => response.end('world'))
  assert.equal((await ask(proxy, `http://both.example:${site.port}/`)).text, 'world', 'of several addresses the others count')
})

test('what can not be reached or understood is said, and the next request is answered', async () => {
  await using proxy = await openProxy({ names: { 'gone.example': [WORLD] } })
  const closed = await listening(createServer())
  const { port } = closed
  await closed[Symbol.asyncDispose]()
  for (const [path, status] of [
    ['/origin-form', 400],
    ['https://example.com/', 400],
    ['http://unknown.example/', 502],
    [`http://gone.example:${port}/`, 502],
  ] as const)
    assert.equal((await ask(proxy, path)).statusCode, status, path)
  for (const [target, status] of [
    ['gone.example', 400],
    ['gone.example:0', 400],
    ['gone.example:65536', 400],
    ['user@gone.example:80', 400],
    ['unknown.example:80', 502],
  ] as const) {
    const { status: told, socket } = await tunnel(proxy, target)
    socket.destroy()
    assert.equal(told, status, target)
  }
  await using site = await web((_request, response) => response.end('ok'))
  assert.equal((await ask(proxy, `http://${WORLD}:${site.port}/`)).text, 'ok')
})

test('a guest has so many connections, and as many out of those in which it asks before it is answered; another has its own', async () => {
  await using proxy = await openProxy({ limits: { connections: 3 } })
  for (const address of [STRANGER, THIRD]) proxy.admit(address)
  await using service = await echo()
  const held = []
  for (let count = 0; count < 3; count += 1) held.push(await tunnel(proxy, `${WORLD}:${service.port}`))
  await assert.rejects(tunnel(proxy, `${WORLD}:${service.port}`), /ECONNRESET/)
  const other = await tunnel(proxy, `${WORLD}:${service.port}`, STRANGER)
  assert.equal(other.status, 200)
  for (const { socket } of [...held, other]) socket.destroy()

  const waiting = new Set<Socket>()
  await using slow = await listening(createServer((socket) => waiting.add(socket.on('error', () => undefined).resume())))
  const pipelined = connect({ host: '127.0.0.1', port: proxy.port, localAddress: THIRD })
  const line = `GET http://${WORLD}:${slow.port}/ HTTP/1.1\r\nHost: x\r\n\r\n`
  pipelined.on('error', () => undefined).write(line.repeat(10))
  await until('as many as may be are open', () => Promise.resolve(waiting.size === 3))
  pipelined.destroy()
  for (const socket of waiting) socket.destroy()
})

test('headers are bounded, and who is idle or does not ask is cut off', async () => {
  await using proxy = await openProxy({ limits: { headerBytes: 1024, headersMs: 200, idleMs: 300 } })
  await using service = await echo()
  assert.equal((await ask(proxy, `http://${WORLD}:${service.port}/`, { headers: { long: 'x'.repeat(2048) } })).statusCode, 431)
  const { socket } = await tunnel(proxy, `${WORLD}:${service.port}`)
  await once(socket.resume(), 'end')
  socket.destroy()
  const mute = connect({ host: '127.0.0.1', port: proxy.port, localAddress: GUEST })
  mute.on('error', () => undefined).write('GET http://')
  await closing(mute.resume())
})

test('a proxy that is disposed of ends what is open, and listens no more', async () => {
  await using service = await echo()
  const proxy = await openProxy()
  const { socket } = await tunnel(proxy, `${WORLD}:${service.port}`)
  const broken = closing(socket)
  await proxy[Symbol.asyncDispose]()
  await broken
  await assert.rejects(ask(proxy, '/'), /ECONNREFUSED/)
})
