// Clients that send or read slowly, or not at all: they are given up after a while, since each holds a connection and what it has not taken.
// For heads Node does that itself. Streams of events, programs and copies may rest: they are told apart from dead ones by their pings.

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

const JSON_TYPE = /^application\/(?:[\w.+-]+\+)?json\b/i

/** Calls `giveUp` where a body does not come: JSON that is not whole in that time, others that pause for so long while they are waited for. */
export function limitSlowBodies(server: Server, limitMs: number, giveUp: (socket: Socket) => void): void {
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    if (!hasBody(request)) return
    const { socket } = request
    const mustBeWhole = JSON_TYPE.test(request.headers['content-type'] ?? '')
    let seen = socket.bytesRead
    const timer = setInterval(() => {
      if (request.complete || request.destroyed) {
        clearInterval(timer)
        return
      }
      // What is here and not read yet is held back by us.
      const goesOn = socket.bytesRead !== seen || (request.readableLength > 0 && !response.writableEnded)
      seen = socket.bytesRead
      if (goesOn && !mustBeWhole) return
      clearInterval(timer)
      if (response.headersSent) socket.destroy()
      else giveUp(socket)
    }, limitMs)
    request.once('close', () => clearInterval(timer))
  })
}

function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0'
}

/** Ends connections whose client takes nothing of an answer for so long. */
export function limitSlowReaders(app: FastifyInstance, limitMs: number): void {
  app.addHook('onSend', (_request, reply, payload, done) => {
    // Node counts what a socket has sent as activity, and sets the time anew when the answer is out (keep-alive) and when the next request comes.
    const { socket } = reply.raw
    // Requests that are injected have none.
    if (socket instanceof Socket && (typeof payload === 'string' || Buffer.isBuffer(payload))) socket.setTimeout(limitMs)
    done(null, payload)
  })
}
