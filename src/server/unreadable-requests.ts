// Answers to what is no HTTP request, one whose head is too long, or one that does not come to its end: no route ever sees it, so the answer is written to the connection as it is.

import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyBaseLogger } from 'fastify'
import { HypemanError } from '../api/errors.ts'
import { errorBody, errorHeaders } from './errors.ts'

/** An error of Node's parser, or of the connection. */
interface ConnectionError extends Error {
  readonly code?: string
}

/** How long a client may go on sending before the connection is cut: one that is cut off while it sends never reads why. */
const LINGER_MS = 2_000

/** Of what comes after the first thing that is not understood, the parser complains again. */
const answered = new WeakSet<Socket>()

/** Answers, ends the connection, and logs one line under the id that the answer carries. */
export function answerUnreadable(error: ConnectionError, socket: Socket, log: FastifyBaseLogger, requestId: string): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || answered.has(socket)) return
  answered.add(socket)
  const known = knownError(error)
  log.info({ reqId: requestId, status: known.status, code: known.code, reason: error.code }, 'a request that can not be read')
  answerWithoutRoute(known, socket, requestId)
}

/** Writes an answer to a connection as it is, and ends it. */
export function answerWithoutRoute(known: HypemanError, socket: Socket, requestId: string): void {
  const body = JSON.stringify(errorBody(known, requestId))
  const headers = {
    ...{ 'content-type': 'application/json; charset=utf-8', 'content-length': Buffer.byteLength(body) },
    ...{ connection: 'close', 'x-request-id': requestId, ...errorHeaders(known.code) },
  }
  const head = [
    `HTTP/1.1 ${known.status} ${STATUS_CODES[known.status] ?? ''}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ]
  const cut = setTimeout(() => socket.destroy(), LINGER_MS)
  socket.once('close', () => clearTimeout(cut))
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`)
}

function knownError(cause: ConnectionError): HypemanError {
  switch (cause.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new HypemanError('payload_too_large', 'path, query and headers are longer than 16 KiB together; send less in them', { cause })
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new HypemanError('request_timeout', 'the request did not come to its end in time; send it again', { cause })
    default:
      return new HypemanError('invalid_request', `this is no HTTP request: ${cause.message}`, { cause })
  }
}
