// Routes of pushes: images of this server on their way to other registries.

import { z } from 'zod'
import { createPushBody, push, pushParams } from '../../api/schemas/push.ts'
import { credentialsOf } from '../views.ts'
import { failure, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['pushes'] as const
/** When it is worth to ask how a push is getting on, in seconds. */
const LOOK_AFTER_SECONDS = 2

export function pushRoutes(app: App, { services: { pushes } }: RouteContext): void {
  app.post(
    '/pushes',
    {
      config: { access: 'image:write' },
      schema: {
        tags,
        operationId: 'createPush',
        summary: 'Push an image to another registry',
        description:
          'Answers when the push is queued. The image is sent as it came, so that its digest stays the same; blobs that the target has are not sent. The same push twice is one, until it has ended.',
        body: createPushBody,
        response: { 202: push, ...failure },
        'x-error-codes': [
          ...(['invalid_name', 'invalid_target', 'not_found', 'image_not_ready', 'conflict', 'credential_conflict', 'busy'] as const),
          ...writeErrors,
        ],
      },
    },
    async (request, reply) => {
      const { credentials, ...wanted } = request.body
      const queued = await pushes.create({ ...wanted, credentials: credentialsOf(credentials) })
      return reply.code(202).header('location', `/pushes/${queued.id}`).header('retry-after', String(LOOK_AFTER_SECONDS)).send(queued)
    },
  )
  app.get(
    '/pushes',
    {
      config: { access: 'image:read' },
      schema: {
        tags,
        operationId: 'listPushes',
        summary: 'List pushes',
        description: 'Newest first: those that have not ended, and the last hundred that have.',
        response: { 200: z.array(push), ...failure },
      },
    },
    async () => [...pushes.list()],
  )
  app.get(
    '/pushes/:id',
    {
      config: { access: 'image:read' },
      schema: {
        tags,
        operationId: 'getPush',
        summary: 'Show a push',
        params: pushParams,
        response: { 200: push, ...failure },
        'x-error-codes': ['not_found', 'ambiguous'],
      },
    },
    async (request) => pushes.get(request.params.id),
  )
}
