// Routes of volumes.

import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { createVolumeBody, createVolumeFromArchiveQuery, listVolumesQuery, volume, volumeParams } from '../../api/schemas/volume.ts'
import { passBodiesOn, streamedBody } from '../bodies.ts'
import { failure, lookupErrors, nothing, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['volumes'] as const

export function volumeRoutes(app: App, { services: { volumes } }: RouteContext): void {
  app.post(
    '/volumes',
    {
      config: { access: 'volume:write' },
      schema: {
        tags,
        operationId: 'createVolume',
        summary: 'Create an empty volume',
        body: createVolumeBody,
        response: { 201: volume, ...failure },
        'x-error-codes': ['already_exists', 'insufficient_resources', 'host_unavailable', ...writeErrors],
      },
    },
    async (request, reply) => reply.code(201).send(await volumes.create(request.body)),
  )
  app.get(
    '/volumes',
    {
      config: { access: 'volume:read' },
      schema: {
        tags,
        operationId: 'listVolumes',
        summary: 'List volumes',
        querystring: listVolumesQuery,
        response: { 200: z.array(volume), ...failure },
      },
    },
    (request) => volumes.list(request.query),
  )
  app.get(
    '/volumes/:id',
    {
      config: { access: 'volume:read' },
      schema: {
        tags,
        operationId: 'getVolume',
        summary: 'Show a volume',
        params: volumeParams,
        response: { 200: volume, ...failure },
        'x-error-codes': lookupErrors,
      },
    },
    (request) => volumes.get(request.params.id),
  )
  app.delete(
    '/volumes/:id',
    {
      config: { access: 'volume:delete' },
      schema: {
        tags,
        operationId: 'deleteVolume',
        summary: 'Delete a volume that nothing uses',
        params: volumeParams,
        response: { 204: nothing, ...failure },
        'x-error-codes': ['not_found', 'ambiguous', 'conflict', 'storage_unsuitable'],
      },
    },
    async (request, reply) => {
      await volumes.remove(request.params.id)
      return reply.code(204).send(null)
    },
  )
}

/** Its body is a stream: register where bodies are left unread. */
export function volumeArchiveRoute(app: App, { services: { volumes } }: RouteContext): void {
  passBodiesOn(app)
  app.post(
    '/volumes/from-archive',
    {
      config: { access: 'volume:write', wrongFieldCode: 'invalid_field' },
      preValidation: async (request) => {
        for (const field of ['name', 'size_gb'])
          if (!isGiven(request.query, field)) throw new HypemanError('missing_field', `query parameter ${field}: it is required`)
      },
      schema: {
        tags,
        operationId: 'createVolumeFromArchive',
        summary: 'Create a volume that holds the files of an archive',
        description: 'The body is a tar archive, plain or compressed with gzip.',
        'x-streamed-body': ['application/gzip', 'application/x-tar', 'application/octet-stream'],
        querystring: createVolumeFromArchiveQuery,
        response: { 201: volume, ...failure },
        'x-error-codes': [
          ...(['missing_field', 'invalid_field', 'invalid_archive', 'archive_too_large'] as const),
          ...(['already_exists', 'insufficient_resources', 'host_unavailable', ...writeErrors] as const),
        ],
      },
    },
    async (request, reply) => {
      const archive = streamedBody(request.body)
      return reply.code(201).send(await volumes.createFromArchive(request.query, archive))
    },
  )
}

function isGiven(query: unknown, field: string): boolean {
  return typeof query === 'object' && query !== null && field in query && Reflect.get(query, field) !== ''
}
