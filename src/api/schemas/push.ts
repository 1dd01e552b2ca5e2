// Pushes on the wire, as the official client knows them: images on their way to other registries. Described so that the API's description is whole.

import { z } from 'zod'
import { imageReference, timestamp } from './common.ts'
import { credentials } from './image.ts'

export const push = z
  .object({
    id: z.string(),
    status: z.enum(['queued', 'pushing', 'pushed', 'failed']),
    image: z.string(),
    target: z.string(),
    digest: z.string(),
    created_at: timestamp,
    completed_at: timestamp.nullable().optional(),
    queue_position: z.int().nullable().optional(),
    layers: z.int().optional(),
    bytes: z.int().optional(),
    error: z.string().nullable().optional().meta({ description: 'Why it failed.' }),
  })
  .meta({ id: 'Push', description: 'An image on its way to another registry.' })

export const createPushBody = z
  .object({
    image: imageReference.meta({ description: 'Reference of an image that is here.' }),
    target: imageReference.meta({ description: 'Reference that it shall have in the other registry.' }),
    insecure: z.boolean().default(false).meta({ description: 'Over plain HTTP.' }),
    credentials: credentials.optional(),
  })
  .meta({ id: 'CreatePush' })

export const pushParams = z.object({ id: z.string().min(1).meta({ description: 'Id of the push.' }) })
