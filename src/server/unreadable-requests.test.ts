import assert from 'node:assert/strict'
import { request } from 'node:http'
import { connect } from 'node:net'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { serveFakes, until } from '../../tests/support/http-server.ts'
import { LONGEST_JSON } from './bodies.ts'

async function tell(url: string, sent: string): Promise<{ readonly head: string; readonly body: string }> {
  const { hostname, port } = new URL(url)
  const socket = connect(Number(port), hostname)
  socket.end(sent)
  const [head = '', body = ''] = (await text(socket)).split('\r\n\r\n')
  return { head, body }
}

test('what is no HTTP request is answered in the words of the API, under an id that the log has too', async () => {
  await using server = await serveFakes()
  const { head, body } = await tell(server.url, 'nonsense\r\n\r\n')
  assert.match(head, /^HTTP\/1\.1 400 Bad Request\r\n/)
  assert.match(head, /^x-should-retry: false$/m)
  assert.equal((JSON.parse(body) as { code: string }).code, 'invalid_request')
  const [, id] = /^x-request-id: (\S+)$/m.exec(head) ?? []
  await until(() => server.log.some((entry) => entry['reqId'] === id && entry['code'] === 'invalid_request'))
})

test('a head that is too long is answered with 413', async () => {
  await using server = await serveFakes()
  const { head, body } = await tell(server.url, `GET /health?${'x'.repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`)
  assert.match(head, /^HTTP\/1\.1 413 /)
  assert.deepEqual(JSON.parse(body), {
    code: 'payload_too_large',
    message: 'path, query and headers are longer than 16 KiB together; send less in them',
  })
})

test('a client that sends much after a head that is too long still reads why it is refused', async () => {
  await using server = await serveFakes()
  const { head } = await tell(
    server.url,
    `POST /instances?${'x'.repeat(20_000)} HTTP/1.1\r\nhost: x\r\ncontent-length: 8000000\r\n\r\n${' '.repeat(8_000_000)}`,
  )
  assert.match(head, /^HTTP\/1\.1 413 /)
  const lines = (): unknown[] => server.log.filter((entry) => entry['msg'] === 'a request that can not be read')
  await until(() => lines().length > 0)
  assert.equal(lines().length, 1)
})

test('a path with a broken encoding is answered with a request id', async () => {
  await using server = await serveFakes()
  const answer = await server.fetch('/instances/%zz')
  assert.equal(answer.status, 400)
  assert.match(answer.headers.get('x-request-id') ?? '', /^[0-9a-f]{16}$/)
})

test('a client that sends more than is taken can send it all, reads why it is refused, and keeps its connection', async () => {
  await using server = await serveFakes()
  const { hostname, port } = new URL(server.url)
  const headers = { authorization: `Bearer ${server.token}`, 'content-type': 'application/json', connection: 'keep-alive' }
  const { promise, resolve, reject } = Promise.withResolvers<readonly [number | undefined, string, string | undefined]>()
  const sent = request({
    agent: false,
    hostname,
    port,
    method: 'POST',
    path: '/instances',
    headers: { ...headers, 'content-length': 4 * LONGEST_JSON },
  })
  sent.once('error', reject)
  sent.once('response', (response) => {
    // Only now does most of the body come.
    sent.end(Buffer.alloc(4 * LONGEST_JSON - 1, ' '), () => {
      text(response).then((body) => resolve([response.statusCode, body, response.headers.connection]), reject)
    })
  })
  sent.write(' ')
  const [status, body, connection] = await promise
  sent.destroy()
  assert.equal(status, 413)
  assert.equal((JSON.parse(body) as { code: string }).code, 'payload_too_large')
  assert.notEqual(connection, 'close')
})
