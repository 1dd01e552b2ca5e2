import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Socket } from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { after, test } from 'node:test'
import { connectVsock } from './vsock-socket.ts'

const root = await mkdtemp(path.join(os.tmpdir(), 'vsock-'))
after(() => rm(root, { recursive: true }))
let count = 0

interface Vmm extends AsyncDisposable {
  readonly path: string
  readonly asked: string[]
}

/** A VMM's socket: what each connection says first is asked, and `answer` does the rest. */
async function vmm(answer: (socket: Socket, attempt: number) => void): Promise<Vmm> {
  const at = path.join(root, String((count += 1)))
  const asked: string[] = []
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', (data: Buffer) => {
      asked.push(data.toString())
      answer(socket, asked.length)
    })
  })
  server.listen(at)
  await once(server, 'listening')
  return {
    path: at,
    asked,
    async [Symbol.asyncDispose]() {
      server.close()
    },
  }
}

const soon = (): AbortSignal => AbortSignal.timeout(20_000)

test('a port is asked for until the guest listens, whatever the VMM does until then', async () => {
  await using host = await vmm((socket, attempt) => {
    if (attempt === 1) socket.destroy()
    else if (attempt === 2) socket.end('no such port\n')
    else if (attempt === 3) socket.end('x'.repeat(200))
    else if (attempt === 4) socket.end()
    else socket.write('OK 1073741824\n')
  })
  const socket = await connectVsock(host.path, 1024, soon())
  assert.deepEqual(
    host.asked,
    Array.from({ length: 5 }, () => 'CONNECT 1024\n'),
  )
  socket.destroy()
})

test('what the guest says at once is not lost, however it is cut into pieces', async () => {
  await using host = await vmm((socket) => {
    socket.write('OK')
    setImmediate(() => {
      socket.write(' 7\nhel')
      setImmediate(() => socket.end('lo'))
    })
  })
  const socket = await connectVsock(host.path, 1024, soon())
  let heard = ''
  for await (const data of socket as AsyncIterable<Buffer>) heard += data.toString()
  assert.equal(heard, 'hello')
})

test('a socket that is not there yet is waited for, until the caller gives up', async () => {
  const missing = path.join(root, 'missing')
  await assert.rejects(connectVsock(missing, 1, AbortSignal.timeout(60)), { name: 'TimeoutError' })
  await assert.rejects(connectVsock(missing, 1, AbortSignal.abort(new Error('enough'))), /enough/)
})

test('a guest that takes a connection and says nothing is given up with the caller', async () => {
  await using host = await vmm(() => undefined)
  await assert.rejects(connectVsock(host.path, 1, AbortSignal.timeout(60)), { name: 'TimeoutError' })
})
