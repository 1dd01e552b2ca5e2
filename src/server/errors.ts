// Errors as answers: rows of the catalogue with their status and body, everything else a fault of ours with a request id that the log has too.

import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { catalogue, HypemanError, isHypemanError, type ErrorCode, type ErrorRow } from '../api/errors.ts'
import type { ErrorBody } from '../api/schemas/common.ts'
import { messageOf } from '../platform/flow.ts'
import { InvalidPart, invalidRequest } from './validation.ts'

/** After how many seconds a client shall try again what may succeed then. */
const RETRY_AFTER_SECONDS = 2

declare module 'fastify' {
  interface FastifyRequest {
    /** Code of the error that was answered, for the log line of the request. */
    errorCode: ErrorCode | undefined
  }
}

/** Answers with an error. Used as error handler of routes and for errors of the framework itself. */
export function answerError(error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const known = knownError(error, request)
  request.errorCode = known.code
  if (known.code === 'internal_error') request.log.error({ err: error }, 'a request failed by a fault of the server')
  else if (isTrouble(known, reply)) request.log.warn({ err: error, code: known.code }, 'a request failed')
  // A path that can't be read comes here past the hook that gives every answer its id.
  reply.header('x-request-id', request.id)
  // Who knows better when to try again has said so already.
  for (const [name, value] of Object.entries(errorHeaders(known.code))) if (!reply.hasHeader(name)) reply.header(name, value)
  // Fastify would end the connection under a client that still sends, which then never reads why; Node reads what is left.
  if (known.code === 'payload_too_large') reply.removeHeader('connection')
  // The schema of the route's answers says nothing about errors.
  return reply
    .code(known.status)
    .type('application/json; charset=utf-8')
    .serializer((payload: unknown) => JSON.stringify(payload))
    .send(errorBody(known, request.id))
}

/** Worth a warning: neither what was asked in vain, nor what ended because its caller left. */
function isTrouble(error: HypemanError, reply: FastifyReply): boolean {
  return error.status >= 500 && error.code !== 'not_supported' && !reply.raw.destroyed
}

/** The official clients try 409 and 5xx twice more by themselves unless they are told that it is of no use. */
export function errorHeaders(code: ErrorCode): Readonly<Record<string, string>> {
  const row: ErrorRow = catalogue[code]
  return {
    ...(row.retry === true ? { 'retry-after': String(RETRY_AFTER_SECONDS) } : { 'x-should-retry': 'false' }),
    ...(row.status === 401 ? { 'www-authenticate': 'Bearer' } : {}),
  }
}

export function errorBody(error: HypemanError, requestId: string): ErrorBody {
  return {
    code: error.code,
    message: error.message,
    ...(error.details.length === 0 ? {} : { details: error.details.map((detail) => ({ ...detail })) }),
    ...(error.code === 'internal_error' ? { request_id: requestId } : {}),
  }
}

export function routeNotFound(request: FastifyRequest): HypemanError {
  const [path = ''] = request.originalUrl.split('?', 1)
  return new HypemanError('route_not_found', `there is no ${request.method} ${path}; GET /spec.json lists what there is`)
}

function knownError(error: FastifyError | Error, request: FastifyRequest): HypemanError {
  if (error instanceof SuppressedError) return notUndone(error, request)
  if (isHypemanError(error)) return error
  if (error instanceof InvalidPart) return invalidRequest(error, request.routeOptions.config.wrongFieldCode)
  return frameworkError(error) ?? internalError(error)
}

/** A failure after which not all could be undone is still the failure that it was. */
function notUndone({ error: later, suppressed }: SuppressedError, request: FastifyRequest): HypemanError {
  const cause: unknown = suppressed
  const first = cause instanceof Error ? knownError(cause, request) : internalError(new Error(String(cause)))
  if (first.code === 'internal_error') return first
  return new HypemanError(first.code, `${first.message} (and not all could be undone: ${messageOf(later)})`, {
    cause: first,
    details: first.details,
  })
}

/** What Fastify found wrong with a request before a route saw it. */
function frameworkError(error: FastifyError | Error): HypemanError | undefined {
  if (!('code' in error) || !('statusCode' in error) || typeof error.statusCode !== 'number') return undefined
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new HypemanError('payload_too_large', 'the body is larger than this route takes; send less at once', { cause: error })
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new HypemanError('invalid_request', 'the body has a content type that this route does not take; send application/json', {
        cause: error,
      })
    case 'FST_ERR_BAD_URL':
      return new HypemanError('invalid_request', 'the path has a broken percent-encoding', { cause: error })
    default:
      return error.statusCode >= 400 && error.statusCode < 500
        ? new HypemanError('invalid_request', `the request can't be read: ${error.message}`, { cause: error })
        : undefined
  }
}

function internalError(cause: Error): HypemanError {
  return new HypemanError('internal_error', "the server failed; its log has the details under this request's id", { cause })
}
