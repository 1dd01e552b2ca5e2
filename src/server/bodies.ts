// How bodies are read: JSON that may be absent, and archives that stay streams.

import { PassThrough, Readable } from 'node:stream'
import type { FastifyInstance } from 'fastify'
import { HypemanError } from '../api/errors.ts'
import { messageOf } from '../platform/flow.ts'

/** Longest JSON body in bytes: environments and tags are the large parts. */
export const LONGEST_JSON = 4 * 1024 ** 2

/** Reads JSON bodies. An empty one is `{}`: official clients announce JSON and send nothing where every field is optional. */
export function readJsonBodies(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'string', bodyLimit: LONGEST_JSON }, (_request, text, done) => {
    try {
      done(null, text === '' ? {} : JSON.parse(String(text)))
    } catch (cause) {
      done(new HypemanError('invalid_request', `the body is not JSON: ${whyNotJson(cause)}`))
    }
  })
  app.addHook('preValidation', (request, _reply, done) => {
    if (request.routeOptions.schema?.body !== undefined) request.body ??= {}
    done()
  })
}

/** Without the piece of the body that V8 quotes: a secret may be in it. */
function whyNotJson(cause: unknown): string {
  return messageOf(cause).replace(/, (\.\.\.)?".*"(\.\.\.)? is not valid JSON$/s, '')
}

/** Leaves bodies of any type unread: the route takes the stream, in its own time. */
export function passBodiesOn(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
}

/** The body of a route that takes streams. */
export function streamedBody(body: unknown): Readable {
  if (body instanceof Readable) return apart(body)
  throw new HypemanError('invalid_archive', 'the request has no body; send the archive as its body')
}

/**
 * The bytes of a body as a stream that may be given up without ending the connection, which takes the answer that says why; Node then reads
 * what is left. A client that leaves is an error of the stream.
 */
export function apart(body: Readable): Readable {
  const bytes = new PassThrough()
  body.once('error', (error) => bytes.destroy(error))
  body.once('close', () => {
    if (!body.readableEnded) bytes.destroy(Object.assign(new Error('the client left before the body ended'), { code: 'ECONNRESET' }))
  })
  return body.pipe(bytes)
}
