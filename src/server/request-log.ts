// One line in the log for each request, also for one whose caller left before the answer. Errors with their stacks are logged where they are answered.

import { LogController, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'

/** Status in the log of a request whose caller left before there was an answer. */
const LEFT = 499

/** Fastify's own two lines a request, silenced; what it has to say about broken streams stays. */
export class OneLineController extends LogController {
  override incomingRequest(): void {}
  override requestCompleted(): void {}
}

export function logRequests(app: FastifyInstance): void {
  app.decorateRequest('errorCode', undefined)
  app.addHook('onRequest', async (request, reply) => {
    reply.header('x-request-id', request.id)
    reply.raw.once('close', () => {
      // An upgraded connection is logged by whoever serves it, when it has ended.
      if (!reply.raw.writableFinished && !request.ws) logRequest(request, reply, reply.raw.headersSent ? reply.statusCode : LEFT)
    })
  })
  app.addHook('onResponse', async (request, reply) => logRequest(request, reply, reply.statusCode))
}

function logRequest(request: FastifyRequest, reply: FastifyReply, status: number): void {
  const { method, errorCode } = request
  // Paths and queries may hold names and secrets; the pattern of the route holds neither.
  const route = request.is404 ? undefined : request.routeOptions.url
  request.log.info(
    { method, route, status, ms: Math.round(reply.elapsedTime), ...(errorCode === undefined ? {} : { code: errorCode }) },
    'request',
  )
}
