// Real sockets that send or read slowly, against short limits.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { instanceView } from '../../tests/support/fake-services.ts'
import { serveFakes, until, type HttpUnderTest } from '../../tests/support/http-server.ts'

/** Short enough to be waited for, and for both sides of one process to keep. */
const SHORT_MS = 200

async function dial(server: HttpUnderTest, sent: string): Promise<Socket> {
  const { hostname, port } = new URL(server.url)
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  socket.write(sent)
  return socket
}

const head = (server: HttpUnderTest, method: string, target: string, headers: readonly string[] = []): string =>
  [`${method} ${target} HTTP/1.1`, 'host: x', `authorization: Bearer ${server.token}`, ...headers, '', ''].join('\r\n')

async function assertTimedOut(server: HttpUnderTest, socket: Socket): Promise<void> {
  const [answered = '', body = ''] = (await text(socket)).split('\r\n\r\n')
  assert.match(answered, /^HTTP\/1\.1 408 Request Timeout\r\n/)
  assert.match(answered, /^connection: close$/m)
  assert.equal((JSON.parse(body) as { code: string }).code, 'request_timeout')
  const [, id] = /^x-request-id: (\S+)$/m.exec(answered) ?? []
  await until(() => server.log.some((entry) => entry['reqId'] === id && entry['code'] === 'request_timeout'))
}

test('a connection that says nothing, and one whose head does not end, are told so and closed; others are served meanwhile', async () => {
  await using server = await serveFakes({ limits: { headersMs: SHORT_MS } })
  const slow = await Promise.all(
    ['', 'GET /health HTTP/1.1\r\n', 'GET /health HTTP/1.1\r\nhost: x\r\nx-a: '].map((sent) => dial(server, sent)),
  )
  assert.equal((await server.fetch('/health')).status, 200)
  for (const socket of slow) await assertTimedOut(server, socket)
})

test('a JSON body that comes byte by byte is given up when its time is over, and the route never hears of it', async () => {
  await using server = await serveFakes({ limits: { bodyMs: SHORT_MS } })
  const socket = await dial(server, head(server, 'POST', '/instances', ['content-type: application/json', 'content-length: 1000']))
  const dribble = setInterval(() => socket.write(' '), 20)
  try {
    await assertTimedOut(server, socket)
  } finally {
    clearInterval(dribble)
  }
  assert.deepEqual(server.services.calls, [])
})

test('an archive may take longer than that as long as it goes on, and is given up when it rests', async () => {
  await using server = await serveFakes({ limits: { bodyMs: SHORT_MS } })
  const request = head(server, 'POST', '/images/import?name=a', ['content-type: application/x-tar', 'transfer-encoding: chunked'])
  const going = await dial(server, request)
  let sent = 0
  const steps = setInterval(() => {
    sent += 1
    going.write('3\r\nabc\r\n')
    if (sent * 20 < 3 * SHORT_MS) return
    clearInterval(steps)
    going.write('0\r\n\r\n')
  }, 20)
  const [answer] = (await once(going, 'data')) as [Buffer]
  assert.match(answer.toString(), /^HTTP\/1\.1 202 /)
  going.destroy()
  const resting = await dial(server, `${request}3\r\nabc\r\n`)
  await assertTimedOut(server, resting)
})

test('who is refused before the body came can not hold the connection with the rest of it', async () => {
  await using server = await serveFakes({ limits: { bodyMs: SHORT_MS } })
  const socket = await dial(
    server,
    'POST /instances HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{',
  )
  assert.match(await text(socket), /^HTTP\/1\.1 401 /)
})

test('a client that does not read its answer loses its connection', async () => {
  await using server = await serveFakes({ limits: { bodyMs: SHORT_MS } })
  const large = 'x'.repeat(1024 ** 2)
  for (let at = 0; at < 64; at += 1)
    server.services.instancesById.set(`${at}`, { ...instanceView(`i-${at}`, 'Running'), env: { A: large } })
  const ends: Promise<unknown>[] = []
  server.app.server.once('request', (_request, response) => ends.push(once(response, 'close')))
  const socket = await dial(server, head(server, 'GET', '/instances'))
  socket.pause()
  await until(() => ends.length === 1)
  await Promise.all(ends)
  await until(() => server.log.some((entry) => entry['route'] === '/instances'))
  socket.destroy()
})

test('a connection is kept for the next request as long as the setting says', async () => {
  await using server = await serveFakes({ limits: { keepAliveMs: SHORT_MS } })
  const socket = await dial(server, head(server, 'GET', '/health'))
  assert.match(await text(socket), /^HTTP\/1\.1 200 /)
})

test('an upgraded connection that does not say what it is for is closed with the reason', async () => {
  await using server = await serveFakes({ limits: { bodyMs: SHORT_MS } })
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  for (const operation of ['exec', 'cp']) {
    const [code, reason] = (await once(server.open(`/instances/web/${operation}`), 'close')) as [number, Buffer]
    assert.deepEqual([code, reason.toString()], [1008, 'the first frame did not come in time'])
  }
})
