import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { fastify, type FastifyInstance } from 'fastify'
import { passBodiesOn, streamedBody } from './bodies.ts'

/** Sends a body of so many bytes, and returns the status and text of the answer. */
async function send(app: FastifyInstance, bytes: number): Promise<string> {
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const sent = request(url, { method: 'POST', headers: { 'content-type': 'application/x-tar' } })
  sent.end(Buffer.alloc(bytes))
  const [response] = (await once(sent, 'response')) as [IncomingMessage]
  return `${response.statusCode} ${await text(response)}`
}

test('a request whose archive was given up unread, or in the middle, is told why', async () => {
  for (const read of [0, 1]) {
    await using app = fastify({ forceCloseConnections: true })
    passBodiesOn(app)
    app.post('/', async (incoming) => {
      const archive = streamedBody(incoming.body)
      if (read > 0) for await (const _chunk of archive) break
      archive.destroy()
      throw new Error('there is no room')
    })
    assert.match(await send(app, 300_000), /^500 .*there is no room/)
  }
})

test('a client that leaves in the middle of its archive is an error of the stream', async () => {
  await using app = fastify({ forceCloseConnections: true })
  passBodiesOn(app)
  const { promise, resolve } = Promise.withResolvers<unknown>()
  app.post('/', async (incoming) => {
    await text(streamedBody(incoming.body)).catch(resolve)
    return ''
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const sent = request(url, { method: 'POST', headers: { 'content-type': 'application/x-tar' } })
  sent.on('error', () => undefined)
  sent.write('half', () => setImmediate(() => sent.destroy()))
  assert.equal(((await promise) as NodeJS.ErrnoException).code, 'ECONNRESET')
})
