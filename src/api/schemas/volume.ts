// Volumes on the wire.

import { z } from 'zod'
import { overlayOfVolume } from './instance.ts'
import { tagFilter, tags, timestamp } from './common.ts'

const volumeName = z
  .string()
  .min(1)
  .max(63)
  .regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/, 'a volume name is letters, digits, _, . and -, and begins with a letter or digit')

const volumeId = volumeName.refine((id) => !id.startsWith('builder-disk-'), "ids that begin with builder-disk- are the server's own")

export const volume = z
  .object({
    id: z.string(),
    name: z.string(),
    size_gb: z.int(),
    created_at: timestamp,
    attachments: z.array(z.object({ instance_id: z.string(), mount_path: z.string(), readonly: z.boolean() })).optional(),
    tags: tags.optional(),
  })
  .meta({ id: 'Volume', description: 'A disk that outlives instances: one writes to it, or many read it.' })

export type VolumeView = z.infer<typeof volume>

export const createVolumeBody = z
  .object({
    name: volumeName,
    size_gb: z.int().min(1).max(65_536),
    id: volumeId.optional().meta({ description: 'By default the server makes one.' }),
    tags: tags.optional(),
  })
  .meta({ id: 'CreateVolume' })

export type CreateVolumeBody = z.infer<typeof createVolumeBody>

export const createVolumeFromArchiveQuery = z.object({
  name: volumeName,
  size_gb: z.coerce
    .number()
    .pipe(z.int('size_gb must be a positive integer').min(1, 'size_gb must be a positive integer').max(65_536))
    .meta({ type: 'integer' }),
  id: volumeId.optional(),
  tags: tags.optional(),
})

export const listVolumesQuery = z.object({ tags: tagFilter })

export const volumeParams = z.object({ id: z.string().min(1).meta({ description: 'Id or name.' }) })

export const attachVolumeBody = z
  .object({
    mount_path: z.string().min(1).meta({ description: 'Absolute path in the guest.' }),
    readonly: z.boolean().default(false),
    ...overlayOfVolume,
  })
  .meta({ id: 'AttachVolume' })

/** After defaults. */
export type AttachVolumeBody = z.output<typeof attachVolumeBody>
