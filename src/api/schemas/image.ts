// Images on the wire.

import { z } from 'zod'
import { imageReference, platform, tagFilter, tags, timestamp } from './common.ts'

export const imageStatus = z.enum(['pending', 'pulling', 'converting', 'ready', 'failed'])

export const image = z
  .object({
    name: imageReference.meta({ description: 'Normalised reference: `docker.io/library/alpine:latest` or `repository@sha256:…`.' }),
    digest: z.string().meta({ description: 'Manifest digest for the platform.' }),
    status: imageStatus,
    created_at: timestamp,
    queue_position: z.int().nullable().optional().meta({ description: 'How many are before it, while pending.' }),
    error: z.string().nullable().optional().meta({ description: 'Why it failed.' }),
    size_bytes: z.int().nullable().optional().meta({ description: 'Size of the root filesystem on disk; known when ready.' }),
    platform: z.string().optional(),
    entrypoint: z.array(z.string()).nullable().optional(),
    cmd: z.array(z.string()).nullable().optional(),
    env: z.record(z.string(), z.string()).optional(),
    working_dir: z.string().nullable().optional(),
    tags: tags.optional(),
  })
  .meta({ id: 'Image', description: 'An OCI image, pulled or imported, as a root filesystem that instances share.' })

export type ImageView = z.infer<typeof image>

export const credentials = z
  .object({ username: z.string().optional(), password: z.string().optional(), registry_token: z.string().optional() })
  .meta({ description: "For this transfer alone; neither stored nor logged. Empty: the server's own." })

export type CredentialsView = Readonly<z.infer<typeof credentials>>

export const createImageBody = z
  .object({
    name: imageReference.meta({ description: 'Any reference: `alpine`, `ghcr.io/org/app:1.2`, `repository@sha256:…`.' }),
    platform: platform.optional().meta({ description: "By default the host's." }),
    tags: tags.optional(),
    credentials: credentials.optional(),
  })
  .meta({ id: 'CreateImage' })

export const tagImageBody = z
  .object({ target: imageReference.meta({ description: 'Reference with a tag that shall name the same image.' }) })
  .meta({ id: 'TagImage' })

export const listImagesQuery = z.object({ tags: tagFilter })

export const importImageQuery = z.object({
  name: imageReference.meta({ description: "Reference under which the archive's image is kept." }),
  tags: tags.optional(),
})

export const imageParams = z.object({
  name: z.string().min(1).meta({ description: 'Reference in any spelling, or digest; percent-encoded.' }),
})
