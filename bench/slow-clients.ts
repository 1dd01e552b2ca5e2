// Clients that hold connections open and hardly do anything with them: heads and bodies that come byte by byte, answers that nobody reads.
// Those that the server closes come again.

import { connect, type Socket } from 'node:net'
import type { TestServer } from '../tests/support/server.ts'
import { until } from '../tests/support/until.ts'
import { timed } from './measure.ts'

const BYTE_EVERY_MS = 100
const PIPELINED = 20
/** An answer within that time is one that waits for nothing, in milliseconds. */
const AT_REST_MS = 20

type Opening = (server: TestServer) => string

const openings: readonly Opening[] = [
  () => 'GET /instances HTTP/1.1\r\nhost: bench\r\nx-slow: ',
  ({ token }) =>
    `POST /instances HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ${token}\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n`,
  // Some answers, more than the connection holds: the server keeps what nobody reads.
  ({ token }) => `GET /instances HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer ${token}\r\n\r\n`.repeat(PIPELINED),
]

/** Resolves when the server has done what they asked for at first. They go when it is disposed of. */
export async function openSlowClients(server: TestServer, count: number): Promise<Disposable> {
  const open = new Set<Socket>()
  const { hostname, port } = new URL(server.url)
  let isOver = false
  const start = (index: number): void => {
    if (isOver) return
    const socket = connect(Number(port), hostname)
    open.add(socket)
    socket.pause()
    socket.write(openings[index % openings.length]?.(server) ?? '')
    const bytes = setInterval(() => {
      if (index % openings.length < 2) socket.write('x')
      else if (socket.closed) clearInterval(bytes)
    }, BYTE_EVERY_MS)
    // How a connection ends that was there to be held open has no meaning.
    socket.on('error', () => socket.destroy())
    socket.once('close', () => {
      clearInterval(bytes)
      open.delete(socket)
      start(index)
    })
  }
  for (let index = 0; index < count; index += 1) start(index)
  await until('the server is at rest again', async () => (await timed(() => fetch(`${server.url}/health`))) < AT_REST_MS)
  return {
    [Symbol.dispose]() {
      isOver = true
      for (const socket of open) socket.destroy()
    },
  }
}
