// What is told of each request: one line in the log, and whatever listens (metrics, audit log, traces); also of one whose caller left before the answer.
// Errors with their stacks are logged where they are answered.

import { LogController, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import type { AnsweredRequest, RequestListener, RequestTrace, RequestTracer } from '../telemetry/types.ts'

/** Status in the log of a request whose caller left before there was an answer. */
const LEFT = 499
const UPGRADED = 101

declare module 'fastify' {
  interface FastifyContextConfig {
    /** How requests are counted that have no operation in the description of the API: this with their method. */
    metered?: string
  }
  interface FastifyRequest {
    /** The thing that the answer is about. */
    answered: AnsweredRequest['answered']
    trace: RequestTrace | undefined
  }
}

export interface Telling {
  readonly listeners: readonly RequestListener[]
  readonly tracer: RequestTracer | undefined
}

/** Tells of an upgraded connection, which outlives its request. */
export interface UpgradeTelling {
  upgraded(request: FastifyRequest): void
  ended(request: FastifyRequest, ms: number): void
}

/** Fastify's own two lines a request, silenced; what it has to say about broken streams stays. */
export class OneLineController extends LogController {
  override incomingRequest(): void {}
  override requestCompleted(): void {}
}

export function tellOfRequests(app: FastifyInstance, { listeners, tracer }: Telling): UpgradeTelling {
  app.decorateRequest('errorCode', undefined)
  app.decorateRequest('caller', undefined)
  app.decorateRequest('trace', undefined)
  app.decorateRequest('answered')
  const tell = (request: FastifyRequest, reply: FastifyReply, status: number): void => {
    logRequest(request, status, reply.elapsedTime)
    const told = answeredRequest(request, status, reply.elapsedTime)
    for (const listener of listeners) {
      listener.answered?.(told)
      listener.ended?.(told)
    }
    request.trace?.end(told)
  }
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
    request.answered = {}
    reply.raw.once('close', () => {
      // An upgraded connection is logged by whoever serves it, when it has ended.
      if (!reply.raw.writableFinished && !request.ws) tell(request, reply, reply.raw.headersSent ? reply.statusCode : LEFT)
    })
  })
  if (tracer !== undefined) traceRequests(app, tracer)
  app.addHook('preSerialization', async (request, _reply, payload) => {
    if (changes(request)) request.answered = identityOf(payload)
    return payload
  })
  app.addHook('onResponse', async (request, reply) => tell(request, reply, reply.statusCode))
  return {
    upgraded(request) {
      const told = answeredRequest(request, UPGRADED, 0)
      for (const listener of listeners) listener.answered?.(told)
    },
    ended(request, ms) {
      logRequest(request, UPGRADED, ms)
      const told = answeredRequest(request, UPGRADED, ms)
      for (const listener of listeners) listener.ended?.(told)
      request.trace?.end(told)
    },
  }
}

function traceRequests(app: FastifyInstance, tracer: RequestTracer): void {
  app.addHook('onRequest', (request, _reply, done) => {
    const { id, method, headers } = request
    request.trace = tracer.begin({ id, method, headers, operation: operationOf(request), route: routeOf(request) })
    done()
  })
  // A body is read on behalf of its connection, so what belongs to the request begins behind it.
  app.addHook('preHandler', (request, _reply, done) => {
    if (request.trace === undefined) done()
    else request.trace.run(done)
  })
}

function answeredRequest(request: FastifyRequest, status: number, ms: number): AnsweredRequest {
  return {
    ...{ id: request.id, method: request.method, operation: operationOf(request), status, code: request.errorCode, ms },
    subject: request.caller?.subject,
    remoteAddress: request.ip,
    changes: changes(request),
    target: targetOf(request.params),
    answered: request.answered,
  }
}

function operationOf(request: FastifyRequest): string | undefined {
  const { config, schema } = request.routeOptions
  const id = schema?.operationId
  if (id !== undefined) return id
  const route = config.metered ?? routeOf(request)
  return route === undefined ? undefined : `${request.method} ${route}`
}

/** Paths and queries may hold names and secrets; the pattern of the route holds neither. */
function routeOf(request: FastifyRequest): string | undefined {
  return request.is404 ? undefined : request.routeOptions.url
}

/** Routes say by their scope whether they change something; those that name none, by their method. */
function changes(request: FastifyRequest): boolean {
  const { access } = request.routeOptions.config
  if (request.is404) return false
  if (access === undefined || access === 'public') return !['GET', 'HEAD', 'OPTIONS'].includes(request.method)
  return !access.endsWith(':read')
}

function targetOf(params: unknown): string | undefined {
  const values = typeof params === 'object' && params !== null ? Object.values(params).filter((value) => typeof value === 'string') : []
  return values.length === 0 ? undefined : values.join('/')
}

function identityOf(payload: unknown): AnsweredRequest['answered'] {
  if (typeof payload !== 'object' || payload === null) return {}
  const textOf = (key: 'id' | 'name'): Partial<Record<typeof key, string>> => {
    const value: unknown = key in payload ? Reflect.get(payload, key) : undefined
    return typeof value === 'string' ? { [key]: value } : {}
  }
  return { ...textOf('id'), ...textOf('name') }
}

function logRequest(request: FastifyRequest, status: number, ms: number): void {
  const { method, errorCode } = request
  const line = { method, route: routeOf(request), status, ms: Math.round(ms), ...(errorCode === undefined ? {} : { code: errorCode }) }
  request.log.info(line, status === UPGRADED ? 'stream ended' : 'request')
}
