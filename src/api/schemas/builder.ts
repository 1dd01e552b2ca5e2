// Builders on the wire, as the official client knows them: the caches that builds share. Described so that the API's description is whole.

import { z } from 'zod'
import { tags, timestamp } from './common.ts'

export const builder = z
  .object({
    id: z.string(),
    name: z.string().optional(),
    status: z.enum(['ready', 'pruning', 'deleting', 'error']),
    created_at: timestamp,
    disk_size_gb: z.int(),
    max_concurrency: z.int().meta({ description: 'How many builds it does at a time.' }),
    queued_builds: z.array(z.string()).meta({ description: 'Ids of the builds that wait for it, oldest first.' }),
    active_build_id: z.string().nullable().optional(),
    last_used_at: timestamp.nullable().optional(),
    tags: tags.optional(),
  })
  .meta({ id: 'Builder', description: 'A place for builds that keeps their cache.' })

export const createBuilderBody = z
  .object({
    id: z.string().optional().meta({ description: 'By default the server makes one.' }),
    name: z.string().optional(),
    disk_size_gb: z.int().min(1).optional(),
    tags: tags.optional(),
  })
  .meta({ id: 'CreateBuilder' })

export const builderParams = z.object({ id: z.string().min(1).meta({ description: 'Id of the builder.' }) })
