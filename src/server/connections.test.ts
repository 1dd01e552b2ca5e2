import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, get } from 'node:http'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { serveFakes, until, type HttpUnderTest } from '../../tests/support/http-server.ts'

const MOST = 3

async function dial(server: HttpUnderTest): Promise<Socket> {
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  return socket
}

/** Connections that are about to ask. */
async function fill(server: HttpUnderTest): Promise<Socket[]> {
  const sockets = await Promise.all(Array.from({ length: MOST }, () => dial(server)))
  for (const socket of sockets) socket.write('GET /health HTTP/1.1\r\n')
  return sockets
}

test('a connection too many is told so; those that are there go on, and one that ends makes room', async () => {
  await using server = await serveFakes({ limits: { connections: MOST } })
  const closings: Promise<unknown>[] = []
  server.app.server.on('connection', (socket: Socket) => closings.push(once(socket, 'close')))
  const sockets = await fill(server)
  const anyCloses = Promise.race(closings)
  const [answered = '', body = ''] = (await text(await dial(server))).split('\r\n\r\n')
  assert.match(answered, /^HTTP\/1\.1 503 /)
  assert.match(answered, /^retry-after: \d+$/m)
  assert.deepEqual(JSON.parse(body), {
    code: 'too_many_connections',
    message: '3 connections are open, as many as this server takes; try again soon',
  })
  const [first, second, third] = sockets
  first?.end('host: x\r\nconnection: close\r\n\r\n')
  assert.match(await text(first ?? assert.fail()), /^HTTP\/1\.1 200 /)
  await anyCloses
  assert.equal((await server.fetch('/health', { headers: { connection: 'close' } })).status, 200)
  second?.destroy()
  third?.destroy()
})

test('a client that sends while it is refused reads why', async () => {
  await using server = await serveFakes({ limits: { connections: MOST } })
  const sockets = await fill(server)
  const refused = await dial(server)
  refused.write(`POST /instances HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n${' '.repeat(4_000_000)}`)
  assert.match(await text(refused), /^HTTP\/1\.1 503 /)
  for (const socket of sockets) socket.destroy()
})

test('what is refused takes up nothing: all are closed, and the log has one line', async () => {
  await using server = await serveFakes({ limits: { connections: MOST } })
  const sockets = await fill(server)
  const refused = await Promise.all(Array.from({ length: 200 }, () => dial(server)))
  // Beyond some, they are closed without a word.
  await Promise.all(refused.map((socket) => text(socket).catch((error: NodeJS.ErrnoException) => assert.equal(error.code, 'ECONNRESET'))))
  const warnings = server.log.filter((entry) => String(entry['msg']).includes('limits.connections'))
  assert.equal(warnings.length, 1)
  for (const socket of sockets) socket.destroy()
})

test('connections that are only kept alive make room', async () => {
  await using server = await serveFakes({ limits: { connections: MOST } })
  const agent = new Agent({ keepAlive: true })
  const ask = async (): Promise<number | undefined> => {
    const { promise, resolve, reject } = Promise.withResolvers<number | undefined>()
    get(`${server.url}/health`, { agent }, (response) => response.resume().once('end', () => resolve(response.statusCode))).once(
      'error',
      reject,
    )
    return promise
  }
  assert.deepEqual(await Promise.all(Array.from({ length: MOST }, ask)), [200, 200, 200])
  await until(() => Object.values(agent.freeSockets).flat().length === MOST)
  const socket = await dial(server)
  socket.write('GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n')
  assert.match(await text(socket), /^HTTP\/1\.1 200 /)
  agent.destroy()
})
