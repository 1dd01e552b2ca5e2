import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { test } from 'node:test'
import { instanceView } from '../../tests/support/fake-services.ts'
import { serveFakes, until, type HttpUnderTest } from '../../tests/support/http-server.ts'
import { fastify, type FastifyInstance } from 'fastify'
import { HypemanError } from '../api/errors.ts'
import { untilGone } from './signals.ts'
import { sendEvents } from './sse.ts'

async function withInstance(): Promise<HttpUnderTest> {
  const server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  return server
}

test('logs come to the official client line by line, whatever is in the lines', async () => {
  await using server = await withInstance()
  server.services.logLines = ['one', '', 'data: "two"', '{"json":true}', 'ünï\u2028', '\u0000\r']
  const lines = await Array.fromAsync(await server.client.instances.logs('web', { tail: 10, source: 'vmm' }))
  assert.deepEqual(lines, server.services.logLines)
  assert.deepEqual(
    server.services.calls.find(([operation]) => operation === 'logs'),
    ['logs', 'web', { tail: 10, follow: false, source: 'vmm' }],
  )
})

test('a stream has the headers that keep proxies from holding it back', async () => {
  await using server = await withInstance()
  const { headers } = await server.fetch('/instances/web/logs')
  assert.match(headers.get('content-type') ?? '', /^text\/event-stream/)
  assert.equal(headers.get('cache-control'), 'no-cache')
  assert.equal(headers.get('x-accel-buffering'), 'no')
})

test('an error before the first line is a proper answer', async () => {
  await using server = await withInstance()
  const missing = await server.fetch('/instances/nobody/logs?follow=true')
  assert.deepEqual([missing.status, ((await missing.json()) as { code: string }).code], [404, 'not_found'])
  server.services.failNext = new HypemanError('log_not_found', 'the instance has no app log yet; start it first')
  const none = await server.fetch('/instances/web/logs')
  assert.deepEqual([none.status, ((await none.json()) as { code: string }).code], [404, 'log_not_found'])
})

test('an error after the first line breaks the stream off, so that nobody takes it for the end', async () => {
  await using server = await withInstance()
  server.services.logLines = [
    'one',
    async () => {
      throw new Error('the disk is gone')
    },
  ]
  await assert.rejects((await server.fetch('/instances/web/logs')).text())
})

test('following a log in which nothing is yet begins at once', async () => {
  await using server = await withInstance()
  const leaving = new AbortController()
  const answer = await server.fetch('/instances/web/logs?follow=true', { signal: leaving.signal })
  assert.equal(answer.status, 200)
  leaving.abort()
  await until(() => server.services.calls.some(([operation]) => operation === 'logs ended'))
})

test('a stream ends when its reader leaves, and when the server stops', async () => {
  await using server = await withInstance()
  server.services.logLines = ['one']
  const leaving = new AbortController()
  const left = await server.client.instances.logs('web', { follow: true }, { signal: leaving.signal })
  const lines = left[Symbol.asyncIterator]()
  assert.equal((await lines.next()).value, 'one')
  leaving.abort()
  await until(() => server.services.calls.some(([operation]) => operation === 'logs ended'))
  const text = (await server.fetch('/instances/web/logs?follow=true')).text()
  server.stop()
  assert.match(await text, /data: "one"\n\n$/)
})

test('a reader that leaves before the first line leaves nothing open', async () => {
  await using server = await withInstance()
  const closed = Promise.withResolvers<void>()
  server.app.server.on('request', (_request, response) => response.once('close', closed.resolve))
  const leaving = new AbortController()
  server.services.logLines = [
    async () => {
      leaving.abort()
      await closed.promise
    },
    'one',
  ]
  await assert.rejects(server.fetch('/instances/web/logs', { signal: leaving.signal }))
  await until(() => server.services.calls.some(([operation]) => operation === 'logs ended'))
})

test('a reader that is slow holds the source back', async () => {
  await using server = await withInstance()
  let taken = 0
  const line = 'x'.repeat(64 * 1024)
  server.services.logLines = Array.from({ length: 2_000 }, () => [
    line,
    async () => {
      taken += 1
    },
  ]).flat()
  // Taken hold of at once: fetch ends an answer that nobody reads as soon as it is collected.
  const reader = (await server.fetch('/instances/web/logs')).body?.values()
  let before = -1
  while (before !== taken) {
    before = taken
    await delay(200)
  }
  assert.ok(taken < 1_000, `${taken} lines were taken though nobody reads`)
  let bytes = 0
  for await (const chunk of reader ?? []) bytes += chunk.length
  assert.ok(bytes > 2_000 * line.length)
})

test('the event log of an instance and the progress of images are streams of objects', async () => {
  await using server = await withInstance()
  server.services.events = [{ time: '2026-01-02T03:04:05.678Z', type: 'state', state: 'Running', message: 'ready' }]
  assert.equal(await (await server.fetch('/instances/web/events?tail=5')).text(), `data: ${JSON.stringify(server.services.events[0])}\n\n`)
  server.services.progress = [{ name: 'alpine', status: 'pulling', message: 'layer 1', doneBytes: 5, totalBytes: 10 }]
  const text = (await server.fetch('/images/events')).text()
  server.stop()
  assert.equal(await text, 'data: {"name":"alpine","status":"pulling","message":"layer 1","done_bytes":5,"total_bytes":10}\n\n')
})

/** A stream of nothing, with heartbeats as often as a test can wait for, on a real socket. */
async function serveQuiet(): Promise<{ app: FastifyInstance; socket: Socket; ended: Promise<void> }> {
  const app = fastify({ forceCloseConnections: true })
  const ended = Promise.withResolvers<void>()
  app.get('/', async (_request, reply) => {
    const signal = untilGone(reply, new AbortController().signal)
    const nothing = async function* (): AsyncGenerator<string> {
      try {
        if (!signal.aborted) await once(signal, 'abort')
        yield* []
      } finally {
        ended.resolve()
      }
    }
    await sendEvents(reply, nothing(), signal, 10)
    return reply
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  await once(socket, 'connect')
  socket.write('GET / HTTP/1.1\r\nhost: x\r\n\r\n')
  return { app, socket, ended: ended.promise }
}

test('a quiet stream has a comment now and then, and nothing that clients would take for an item', async () => {
  const { app, socket } = await serveQuiet()
  let text = ''
  socket.on('data', (chunk: Buffer) => (text += chunk.toString()))
  await until(() => (text.match(/: ping\n/g) ?? []).length >= 3)
  socket.destroy()
  await app.close()
  assert.match(text, /: ok\n/)
  assert.doesNotMatch(text, /data:/)
  // The chunks' lengths and line breaks have a carriage return each; the stream has none.
  const stream = text.slice(text.indexOf('\r\n\r\n')).replaceAll(/[0-9a-f]*\r\n/g, '')
  assert.doesNotMatch(stream, /\n\n/, 'some clients take an empty line for the end of an event, though there was none')
})

test('a client that vanishes from a quiet stream without a word ends its source', async () => {
  const { app, socket, ended } = await serveQuiet()
  await once(socket, 'data')
  socket.resetAndDestroy()
  await ended
  await app.close()
})
