// A program is asked from the host: what counts as an answer, what is told of one that gives none, and that nothing of it stays. Programs are real servers of this host.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { test } from 'node:test'
import { selfSigned } from '../../tests/support/certificate.ts'
import { until } from '../../tests/support/until.ts'
import type { ProbeAnswer, ProbeRequest } from '../agent/contract.ts'
import { hostConnections, type HostConnection } from './connections.ts'
import { probeFromHost } from './host-probe.ts'

interface Listening extends AsyncDisposable {
  readonly port: number
}

async function listen(server: Server): Promise<Listening> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined) // it is reset, as it shall be
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy()
      const closed = once(server, 'close')
      server.close()
      await closed
    },
  }
}

interface Seen {
  readonly begun: number[]
  readonly over: number[]
}

type How = { readonly type: 'tcp' } | { readonly type: 'http' | 'https'; readonly path: string }

function probe(
  port: number,
  how: How,
  { signal = new AbortController().signal, timeoutMs = 60_000, seen = { begun: [], over: [] } as Seen } = {},
): Promise<ProbeAnswer> {
  const asked: ProbeRequest = { ...how, host: '127.0.0.1', port, timeoutMs }
  const onPort = (own: number): Disposable => {
    seen.begun.push(own)
    return { [Symbol.dispose]: () => void seen.over.push(own) }
  }
  return probeFromHost(asked, { authority: '10.0.2.15:80', signal, onPort })
}

test('a program that takes the connection passes, one that is not there does not', async () => {
  const server = createServer()
  let port: number
  {
    await using program = await listen(server)
    port = program.port
    assert.deepEqual(await probe(port, { type: 'tcp' }), {})
  }
  assert.match((await probe(port, { type: 'tcp' })).error ?? '', /ECONNREFUSED/)
  assert.match((await probe(port, { type: 'http', path: '/' })).error ?? '', /ECONNREFUSED/)
})

test('of HTTP the status is told, by either scheme and whoever has signed; the program is asked as what it is in the guest', async () => {
  const asked: unknown[] = []
  const answer: Parameters<typeof createHttpServer>[1] = ({ method, url, headers }, response) => {
    asked.push([method, url, headers.host])
    if (url === '/moved') response.setHeader('location', '/elsewhere')
    response.statusCode = url === '/moved' ? 302 : 204
    response.end()
  }
  await using plain = await listen(createHttpServer(answer))
  await using secure = await listen(createHttpsServer(selfSigned, answer))
  assert.deepEqual(await probe(plain.port, { type: 'http', path: '/up?x=1' }), { status: 204 })
  assert.deepEqual(await probe(secure.port, { type: 'https', path: '/up' }), { status: 204 })
  assert.deepEqual(await probe(plain.port, { type: 'http', path: '/moved' }), { status: 302 })
  assert.deepEqual(asked, [
    ['GET', '/up?x=1', '10.0.2.15:80'],
    ['GET', '/up', '10.0.2.15:80'],
    ['GET', '/moved', '10.0.2.15:80'],
  ])
  assert.notEqual((await probe(plain.port, { type: 'https', path: '/up' })).error, undefined)
})

test('an answer without end is as good as any, one that is none is told, and one that never comes takes no longer than the limit', async () => {
  await using endless = await listen(createHttpServer((_, response) => response.writeHead(200).write('a beginning')))
  await using strange = await listen(createServer((socket) => socket.end('SSH-2.0-not this\r\n')))
  await using mute = await listen(createServer())
  assert.deepEqual(await probe(endless.port, { type: 'http', path: '/' }), { status: 200 })
  assert.match((await probe(strange.port, { type: 'http', path: '/' })).error ?? '', /\w+ \w+/)
  for (const type of ['http', 'https'] as const)
    assert.deepEqual(await probe(mute.port, { type, path: '/' }, { timeoutMs: 50 }), { error: 'no answer within 50 ms' })
})

test('who does not want to know any more gets the reason', async () => {
  const leaving = new AbortController()
  await using mute = await listen(createServer(() => leaving.abort(new Error('the server stops'))))
  await assert.rejects(probe(mute.port, { type: 'http', path: '/' }, { signal: leaving.signal }), /the server stops/)
  await assert.rejects(probe(mute.port, { type: 'tcp' }, { signal: leaving.signal }), /the server stops/)
})

test('its port is told before the program has the connection, and given back when the connection is gone; nothing is remembered on the host', async () => {
  const seen: Seen = { begun: [], over: [] }
  const before: unknown[] = []
  await using program = await listen(
    createHttpServer((request, response) => {
      before.push([seen.begun.includes(request.socket.remotePort ?? 0), seen.over.length])
      response.end('x')
    }),
  )
  for (let round = 0; round < 3; round += 1) await probe(program.port, { type: 'http', path: '/' }, { seen })
  assert.deepEqual(
    before,
    [0, 1, 2].map((round) => [true, round]),
  )
  assert.deepEqual(seen.over, seen.begun)
  // Another program may have had this port a moment ago, whose connections the kernel still lists.
  const isOfAProbe = ({ local, remote }: HostConnection): boolean => seen.begun.includes(local.port) || seen.begun.includes(remote.port)
  await until('no connection is listed', async () => !(await hostConnections(new Set([program.port]))).some(isOfAProbe))
})
