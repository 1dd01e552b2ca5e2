// Routes of the volumes of an instance that was made before.

import { z } from 'zod'
import { instanceParams } from '../../api/schemas/instance-requests.ts'
import { instance } from '../../api/schemas/instance.ts'
import { attachVolumeBody } from '../../api/schemas/volume.ts'
import { failure, lookupErrors, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['volumes'] as const
const path = '/instances/:id/volumes/:volumeId'

const params = z.object({
  ...instanceParams.shape,
  volumeId: z.string().min(1).meta({ description: 'Id or name of the volume.' }),
})

export function attachmentRoutes(app: App, { services: { instances } }: RouteContext): void {
  app.post(
    path,
    {
      config: { access: 'volume:write' },
      schema: {
        tags,
        operationId: 'attachVolume',
        summary: 'Attach a volume to a Stopped instance',
        description:
          'The guest finds it at its next start. A volume has one writer or many readers; while a snapshot reads it, it has no writer.',
        params,
        body: attachVolumeBody,
        response: { 200: instance, ...failure },
        'x-error-codes': [
          ...lookupErrors,
          'invalid_overlay_size',
          'invalid_state',
          'busy',
          'insufficient_resources',
          'host_unavailable',
          ...writeErrors,
        ],
      },
    },
    (request) => instances.attachVolume(request.params.id, request.params.volumeId, request.body),
  )
  app.delete(
    path,
    {
      config: { access: 'volume:write' },
      schema: {
        tags,
        operationId: 'detachVolume',
        summary: 'Detach a volume from a Stopped instance',
        description: 'What is on the volume stays.',
        params,
        response: { 200: instance, ...failure },
        'x-error-codes': [...lookupErrors, 'invalid_state', 'busy', ...writeErrors],
      },
    },
    (request) => instances.detachVolume(request.params.id, request.params.volumeId),
  )
}
