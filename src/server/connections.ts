// How many connections there may be. Those that ask for nothing make room for new ones; if that is not enough, new ones are told so and closed.
// Node's own `maxConnections` closes without a word.

import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyBaseLogger } from 'fastify'
import { HypemanError } from '../api/errors.ts'
import { answerWithoutRoute } from './unreadable-requests.ts'

/** Refused connections that may still read why; more are closed at once, so that refusals don't take up what is refused. */
const REFUSALS_AT_ONCE = 64

export interface RefusedConnections {
  readonly most: number
  readonly log: FastifyBaseLogger
  readonly newRequestId: () => string
}

/** Stands before what the server does with new connections. */
export function limitConnections(server: Server, { most, log, newRequestId }: RefusedConnections): void {
  const open = new Set<Socket>()
  const refused = new Set<Socket>()
  const resting = restingConnections(server)
  let isFull = false
  const accept = server.listeners('connection')
  server.removeAllListeners('connection')
  server.on('connection', (socket) => {
    if (open.size >= most) {
      const longest = resting.longest()
      if (longest !== undefined) {
        open.delete(longest)
        longest.destroy()
      }
    }
    if (open.size >= most) {
      if (!isFull) log.warn({ connections: most }, 'as many connections are open as limits.connections allows: new ones are refused')
      isFull = true
      refuse(socket)
      return
    }
    isFull = false
    keep(open, socket)
    for (const listener of accept) listener.call(server, socket)
  })

  function refuse(socket: Socket): void {
    if (refused.size >= REFUSALS_AT_ONCE) {
      socket.destroy()
      return
    }
    keep(refused, socket)
    socket.on('error', () => socket.destroy())
    socket.resume() // what is not read would break the connection under the answer
    const error = new HypemanError('too_many_connections', `${most} connections are open, as many as this server takes; try again soon`)
    answerWithoutRoute(error, socket, newRequestId())
  }
}

function keep(sockets: Set<Socket>, socket: Socket): void {
  sockets.add(socket)
  socket.once('close', () => sockets.delete(socket))
}

/** Connections that were answered and are kept for a next request. Node's `closeIdleConnections` would take new ones for such. */
function restingConnections(server: Server): { longest(): Socket | undefined } {
  /** How many requests of it are under way. */
  const uses = new WeakMap<Socket, number>()
  /** What it had read when there were none, the longest at rest first. Who has sent more since asks for something. */
  const resting = new Map<Socket, number>()
  server.on('request', ({ socket }, response) => {
    if (!uses.has(socket)) socket.once('close', () => resting.delete(socket))
    uses.set(socket, (uses.get(socket) ?? 0) + 1)
    resting.delete(socket)
    response.once('close', () => {
      const left = (uses.get(socket) ?? 1) - 1
      uses.set(socket, left)
      if (left === 0 && !socket.destroyed) resting.set(socket, socket.bytesRead)
    })
  })
  return {
    longest() {
      for (const [socket, bytesRead] of resting) if (socket.bytesRead === bytesRead && !socket.destroyed) return socket
      return undefined
    },
  }
}
