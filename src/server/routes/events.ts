// Routes of what an instance says: its logs and its event log, as server-sent events.

import { z } from 'zod'
import { instanceEvent } from '../../api/events.ts'
import { eventsQuery, instanceParams, logsQuery } from '../../api/schemas/instance-requests.ts'
import { untilGone } from '../signals.ts'
import { sendEvents } from '../sse.ts'
import { failure, lookupErrors, type App, type RouteContext } from './context.ts'

const tags = ['instances'] as const

export function eventRoutes(app: App, { services: { instances }, stopping }: RouteContext): void {
  app.get(
    '/instances/:id/logs',
    {
      config: { access: 'instance:read', stream: true },
      exposeHeadRoute: false,
      schema: {
        tags,
        operationId: 'streamInstanceLogs',
        summary: 'Read or follow the logs of an instance',
        description: 'One frame a line: `data: "<the line as a JSON string>"`.',
        params: instanceParams,
        querystring: logsQuery,
        response: { 200: { description: 'Server-sent events.', content: { 'text/event-stream': { schema: z.string() } } }, ...failure },
        'x-error-codes': [...lookupErrors, 'log_not_found', 'rate_limited'],
      },
    },
    async (request, reply) => {
      const signal = untilGone(reply, stopping)
      await sendEvents(reply, instances.logs(request.params.id, request.query, signal), signal)
      return reply
    },
  )
  app.get(
    '/instances/:id/events',
    {
      config: { access: 'instance:read', stream: true },
      exposeHeadRoute: false,
      schema: {
        tags,
        operationId: 'streamInstanceEvents',
        summary: 'Read or follow what happened to an instance',
        description: 'Every step of every operation on it with its duration, and every state that it reached.',
        params: instanceParams,
        querystring: eventsQuery,
        response: { 200: { description: 'Server-sent events.', content: { 'text/event-stream': { schema: instanceEvent } } }, ...failure },
        'x-error-codes': [...lookupErrors, 'rate_limited'],
      },
    },
    async (request, reply) => {
      const signal = untilGone(reply, stopping)
      await sendEvents(reply, instances.events(request.params.id, request.query, signal), signal)
      return reply
    },
  )
}
