// Routes of images. Names reach these routes as one path segment, however they were encoded (urls.ts).

import { z } from 'zod'
import { imageEvent } from '../../api/events.ts'
import { createImageBody, image, imageParams, importImageQuery, listImagesQuery, tagImageBody } from '../../api/schemas/image.ts'
import { passBodiesOn, streamedBody } from '../bodies.ts'
import { untilGone } from '../signals.ts'
import { sendEvents } from '../sse.ts'
import { credentialsOf, imageEventView, imageView } from '../views.ts'
import { failure, nothing, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['images'] as const

export function imageRoutes(app: App, context: RouteContext): void {
  const { images } = context.services
  app.post(
    '/images',
    {
      config: { access: 'image:write' },
      schema: {
        tags,
        operationId: 'createImage',
        summary: 'Pull an image',
        description: 'Answers when the registry has said which image the name stands for; the rest goes on in the background.',
        body: createImageBody,
        response: { 202: image, ...failure },
        'x-error-codes': [
          ...(['invalid_name', 'invalid_platform', 'not_found', 'platform_not_available', 'rate_limited'] as const),
          ...(['registry_unavailable', 'invalid_archive', 'host_unavailable', ...writeErrors] as const),
        ],
      },
    },
    async (request, reply) => {
      const { credentials, ...body } = request.body
      const pulled = await images.pull({ ...body, credentials: credentialsOf(credentials) })
      return reply.code(202).send(imageView(pulled))
    },
  )
  app.get(
    '/images',
    {
      config: { access: 'image:read' },
      schema: {
        tags,
        operationId: 'listImages',
        summary: 'List images',
        querystring: listImagesQuery,
        response: { 200: z.array(image), ...failure },
      },
    },
    async (request) => images.list({ tags: request.query.tags }).map(imageView),
  )
  namedImageRoutes(app, context)
  progressRoute(app, context)
}

function namedImageRoutes(app: App, { services: { images } }: RouteContext): void {
  app.get(
    '/images/:name',
    {
      config: { access: 'image:read' },
      schema: {
        tags,
        operationId: 'getImage',
        summary: 'Show an image',
        params: imageParams,
        response: { 200: image, ...failure },
        'x-error-codes': ['invalid_name', 'not_found'],
      },
    },
    async (request) => imageView(images.get(request.params.name)),
  )
  app.delete(
    '/images/:name',
    {
      config: { access: 'image:delete' },
      schema: {
        tags,
        operationId: 'deleteImage',
        summary: 'Delete an image',
        description: 'Instances and snapshots that were made from it keep what they need.',
        params: imageParams,
        response: { 204: nothing, ...failure },
        'x-error-codes': ['invalid_name', 'not_found', 'storage_unsuitable'],
      },
    },
    async (request, reply) => {
      await images.remove(request.params.name)
      return reply.code(204).send(null)
    },
  )
  app.post(
    '/images/:name/tag',
    {
      config: { access: 'image:write' },
      schema: {
        tags,
        operationId: 'tagImage',
        summary: 'Give an image another name',
        params: imageParams,
        body: tagImageBody,
        response: { 201: image, ...failure },
        'x-error-codes': ['invalid_name', 'not_found', ...writeErrors],
      },
    },
    async (request, reply) => reply.code(201).send(imageView(await images.tag(request.params.name, request.body.target))),
  )
}

function progressRoute(app: App, { services: { images }, stopping }: RouteContext): void {
  app.get(
    '/images/events',
    {
      config: { access: 'image:read', stream: true },
      exposeHeadRoute: false,
      schema: {
        tags,
        operationId: 'streamImageEvents',
        summary: 'Follow the progress of pulls, pushes and imports',
        description: 'Goes on until the client leaves.',
        response: { 200: { description: 'Server-sent events.', content: { 'text/event-stream': { schema: imageEvent } } }, ...failure },
        'x-error-codes': ['rate_limited'],
      },
    },
    async (_request, reply) => {
      const signal = untilGone(reply, stopping)
      await sendEvents(reply, mapped(images.progress(signal), imageEventView), signal)
      return reply
    },
  )
}

/** Its body is a stream: register where bodies are left unread. */
export function imageImportRoute(app: App, { services: { images } }: RouteContext): void {
  passBodiesOn(app)
  app.post(
    '/images/import',
    {
      config: { access: 'image:write' },
      schema: {
        tags,
        operationId: 'importImage',
        summary: 'Make an image from an archive',
        description: 'The body is an OCI archive or what `docker save` writes, plain or compressed with gzip.',
        'x-streamed-body': ['application/x-tar', 'application/gzip', 'application/octet-stream'],
        querystring: importImageQuery,
        response: { 202: image, ...failure },
        'x-error-codes': ['invalid_name', 'invalid_archive', 'platform_not_available', 'host_unavailable', ...writeErrors],
      },
    },
    async (request, reply) => {
      const { name, tags: imageTags } = request.query
      return reply.code(202).send(imageView(await images.importArchive(name, streamedBody(request.body), imageTags)))
    },
  )
}

async function* mapped<From, To>(items: AsyncIterable<From>, view: (item: From) => To): AsyncGenerator<To> {
  for await (const item of items) yield view(item)
}
