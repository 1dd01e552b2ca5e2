// The limits in the settings are those of the server.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { get, type IncomingMessage } from 'node:http'
import { connect, type Socket } from 'node:net'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { startServer } from '../tests/support/server.ts'

async function dial(url: string): Promise<Socket> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  await once(socket, 'connect')
  return socket
}

test('connections, streams, heads and bodies are limited as the settings say', async () => {
  await using server = await startServer({
    TIMEOUTS__HEADERS: '2s',
    TIMEOUTS__BODY: '200ms',
    TIMEOUTS__KEEP_ALIVE: '300ms',
    LIMITS__CONNECTIONS: '4',
    LIMITS__STREAMS_PER_SUBJECT: '1',
  })
  const headers = { authorization: `Bearer ${server.token}` }
  const follow = async (): Promise<IncomingMessage> => {
    // fetch would keep connections of its own.
    const [answer] = (await once(get(`${server.url}/images/events`, { agent: false, headers }), 'response')) as [IncomingMessage]
    return answer
  }
  const stream = await follow()
  assert.equal(stream.statusCode, 200)
  const refused = await follow()
  assert.equal(refused.statusCode, 429)
  await once(refused.resume(), 'close')
  stream.destroy()

  const body = await dial(server.url)
  body.write(
    `POST /instances HTTP/1.1\r\nhost: x\r\nauthorization: ${headers.authorization}\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n`,
  )
  assert.match(await text(body), /^HTTP\/1\.1 408 /)
  const kept = await dial(server.url)
  kept.write('GET /health HTTP/1.1\r\nhost: x\r\n\r\n')
  assert.match(await text(kept), /^HTTP\/1\.1 200 /)

  const silent = await Promise.all(Array.from({ length: 5 }, () => dial(server.url)))
  const answers = await Promise.all(silent.map((socket) => text(socket)))
  assert.deepEqual(answers.map((answer) => answer.slice(0, 12)).toSorted(), [
    ...Array.from({ length: 4 }, () => 'HTTP/1.1 408'),
    'HTTP/1.1 503',
  ])
})
