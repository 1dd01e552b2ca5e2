// Routes of the server itself: is it there, what can it do, and its own description.

import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { capabilities, health } from '../../api/schemas/capabilities.ts'
import { hostResources, reclaimedMemory, reclaimMemoryBody } from '../../api/schemas/resources.ts'
import { unreadable } from '../../api/schemas/unreadable.ts'
import { failure, type App, type MetricsSource, type RouteContext } from './context.ts'

const tags = ['server'] as const

export function systemRoutes(app: App, { services, metrics }: RouteContext): void {
  app.get(
    '/health',
    {
      config: { access: 'public', rateLimit: false },
      schema: { tags, operationId: 'getHealth', summary: 'Whether the server answers', response: { 200: health, ...failure } },
    },
    async () => ({ status: 'ok' as const }),
  )
  app.get(
    '/capabilities',
    {
      config: { access: 'resource:read' },
      schema: {
        tags,
        operationId: 'getCapabilities',
        summary: 'What this server and host can do',
        response: { 200: capabilities, ...failure },
      },
    },
    () => services.capabilities(),
  )
  app.get(
    '/resources',
    {
      config: { access: 'resource:read' },
      schema: {
        tags,
        operationId: 'getResources',
        summary: 'What the host has, and to whom it is promised',
        description:
          'Processors and memory are promised to instances whose machine is there, disks to all instances and volumes, at their full size. What is in the making counts. Bandwidth is promised to nobody.',
        response: { 200: hostResources, ...failure },
      },
    },
    async () => services.resources.get(),
  )
  app.post(
    '/resources/memory/reclaim',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'reclaimMemory',
        summary: 'Take memory back from running guests for a while',
        description:
          'Where the hypervisor of an instance has a balloon. Each Running instance gives in proportion to what it has above its floor, which is half of its memory and 128 MiB at least. A request replaces the one before. Instances that can not give are named with the reason; 501 only if no hypervisor here can.',
        body: reclaimMemoryBody,
        response: { 200: reclaimedMemory, ...failure },
        'x-error-codes': ['busy', 'not_supported'],
      },
    },
    (request) => services.resources.reclaim(request.body),
  )
  app.get(
    '/unreadable',
    {
      config: { access: 'resource:read' },
      schema: {
        tags,
        operationId: 'listUnreadable',
        summary: "List what lies in the data directory and can't be read",
        description:
          'Damaged, foreign, or written by a newer version: left alone until it is deleted or made again. Everything else works.',
        response: { 200: z.array(unreadable), ...failure },
      },
    },
    async () => services.unreadable().map((one) => ({ ...one })),
  )
  metricsRoute(app, metrics)
}

function metricsRoute(app: App, metrics: MetricsSource | undefined): void {
  app.get(
    '/metrics',
    {
      config: { access: metrics?.isPublic === true ? 'public' : 'resource:read', rateLimit: false },
      schema: {
        tags,
        operationId: 'getMetrics',
        summary: 'Metrics in the text format of Prometheus',
        description: 'Needs no token where `metrics.public` says so.',
        response: { 200: { description: 'Metrics.', content: { 'text/plain': { schema: z.string() } } }, ...failure },
      },
    },
    async (_request, reply) => {
      if (metrics === undefined) throw new HypemanError('not_supported', 'this server counts nothing')
      const { type, text } = await metrics.read()
      return reply.type(type).send(text)
    },
  )
}

/** The API described by itself. */
export function descriptionRoutes(app: App): void {
  const options = { config: { access: 'public' as const }, schema: { hide: true } }
  for (const path of ['/openapi.json', '/spec.json']) app.get(path, options, async () => app.swagger())
  app.get('/spec.yaml', options, async (_request, reply) => reply.type('application/vnd.oai.openapi').send(app.swagger({ yaml: true })))
}
