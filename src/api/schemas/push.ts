// Pushes on the wire: images of this server on their way to other registries.

import { z } from 'zod'
import { imageReference, timestamp } from './common.ts'
import { credentials } from './image.ts'

const pushStatus = z.enum(['queued', 'pushing', 'pushed', 'failed'])

export const push = z
  .object({
    id: z.string(),
    status: pushStatus,
    image: z.string().meta({ description: 'Normalised reference of the image.' }),
    target: z.string().meta({ description: 'Normalised reference that it gets in the other registry.' }),
    digest: z.string().meta({ description: 'Of the manifest that is sent, as it came; the target has the same.' }),
    created_at: timestamp,
    completed_at: timestamp.nullable().optional(),
    queue_position: z.int().nullable().optional().meta({ description: 'Its place in the queue, from 1, while queued.' }),
    layers: z.int().optional().meta({ description: 'How many layers it has; known when pushed.' }),
    bytes: z
      .int()
      .optional()
      .meta({ description: 'Of its layers as they are sent, those that the target had already among them; known when pushed.' }),
    error: z.string().nullable().optional().meta({ description: 'Why it failed.' }),
  })
  .meta({ id: 'Push', description: 'An image on its way to another registry.' })

export type PushView = Readonly<z.infer<typeof push>>

export const createPushBody = z
  .object({
    image: imageReference.meta({ description: 'Reference of an image that is here.' }),
    target: imageReference.meta({ description: 'Reference with a tag that it shall have in the other registry.' }),
    insecure: z
      .boolean()
      .default(false)
      .meta({ description: 'Over plain HTTP, or with any certificate. This machine itself is always asked so.' }),
    credentials: credentials.optional(),
  })
  .meta({ id: 'CreatePush' })

export const pushParams = z.object({ id: z.string().min(1).meta({ description: 'Id of the push, or a unique beginning of it.' }) })
