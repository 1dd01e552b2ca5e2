import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { test } from 'node:test'
import type { WebSocket } from 'ws'
import { instanceView } from '../../tests/support/fake-services.ts'
import { serveFakes, tokenWith, until, type HttpUnderTest } from '../../tests/support/http-server.ts'

async function withInstance(streamsPerSubject: number): Promise<HttpUnderTest> {
  const server = await serveFakes({ limits: { streamsPerSubject } })
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  server.services.agent.programs.set('cat', async ({ input }) => {
    for await (const _ of input);
    return { exitCode: 0 }
  })
  return server
}

async function opened(server: HttpUnderTest): Promise<WebSocket> {
  const socket = server.open('/instances/web/exec')
  await once(socket, 'open')
  socket.send('{"command":["cat"],"stdin_eof":true}')
  return socket
}

async function refusal(server: HttpUnderTest, path: string): Promise<{ status: number | undefined; message: string }> {
  const [, response] = (await once(server.open(path), 'unexpected-response')) as [unknown, IncomingMessage]
  const body = Buffer.concat(await Array.fromAsync(response as AsyncIterable<Buffer>)).toString('utf8')
  const { code, message } = JSON.parse(body) as { code: string; message: string }
  assert.equal(code, 'rate_limited')
  return { status: response.statusCode, message }
}

test('a subject has so many streams of all kinds at once; others, and what is no stream, are not concerned', async () => {
  await using server = await withInstance(2)
  const socket = await opened(server)
  const leaving = new AbortController()
  const logs = await server.fetch('/instances/web/logs?follow=true', { signal: leaving.signal })
  assert.equal(logs.status, 200)
  const held = logs.body?.getReader() // fetch ends an answer that nobody reads as soon as it is collected
  for (const operation of ['exec', 'cp']) {
    const { status, message } = await refusal(server, `/instances/web/${operation}`)
    assert.equal(status, 429)
    assert.match(message, /^tests has 2 streams open/)
  }
  const events = await server.fetch('/images/events')
  assert.deepEqual([events.status, ((await events.json()) as { code: string }).code], [429, 'rate_limited'])
  assert.equal((await server.fetch('/instances')).status, 200)
  const other = { authorization: `Bearer ${tokenWith(undefined, 'somebody else')}` }
  const theirs = await server.fetch('/instances/web/logs', { headers: other })
  assert.equal(theirs.status, 200)
  await theirs.text()
  held?.releaseLock()
  leaving.abort()
  socket.close()
})

test('a stream that has ended is not counted, however it ended', async () => {
  await using server = await withInstance(1)
  const program = await opened(server)
  program.send('{"eof":true}')
  await once(program, 'close')
  await until(() => server.log.filter((entry) => entry['msg'] === 'stream ended').length === 1)
  const vanished = await opened(server)
  vanished.terminate()
  await until(() => server.log.filter((entry) => entry['msg'] === 'stream ended').length === 2)
  for (let time = 0; time < 3; time += 1)
    assert.equal(await (await server.fetch('/instances/web/logs')).text().then(() => 'ended'), 'ended')
  // Refused before the upgrade, for another reason.
  const missing = server.open('/instances/nobody/exec')
  const [, response] = (await once(missing, 'unexpected-response')) as [unknown, IncomingMessage]
  assert.equal(response.statusCode, 404)
  response.resume()
  await once(response, 'close')
  const last = await opened(server)
  last.close()
})

test('a client that leaves while its token is looked at takes no place for ever', async () => {
  await using server = await withInstance(4)
  const { hostname, port } = new URL(server.url)
  for (let left = 0; left < 200; left += 1) {
    // Another token each time: one that was seen before is not looked at again.
    const token = tokenWith(undefined, 'tests', 1_000 + left)
    const socket = connect(Number(port), hostname)
    await once(socket, 'connect')
    socket.write(`GET /instances/web/events?follow=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${token}\r\n\r\n`)
    setImmediate(() => socket.destroy())
    await once(socket, 'close')
  }
  const socket = await opened(server)
  socket.close()
  await once(socket, 'close')
})
