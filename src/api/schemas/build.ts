// Builds of images on the wire, as the official client knows them. Described so that the API's description is whole; none is made yet.

import { z } from 'zod'
import { queryFlag, tags, timestamp } from './common.ts'

const buildStatus = z.enum(['queued', 'building', 'pushing', 'ready', 'failed', 'cancelled'])

const provenance = z.object({
  base_image_digest: z.string().optional(),
  source_hash: z.string().optional(),
  lockfile_hashes: z.record(z.string(), z.string()).optional(),
  buildkit_version: z.string().optional(),
  timestamp: timestamp.optional(),
})

export const build = z
  .object({
    id: z.string(),
    status: buildStatus,
    created_at: timestamp,
    started_at: timestamp.nullable().optional(),
    completed_at: timestamp.nullable().optional(),
    duration_ms: z.int().nullable().optional(),
    queue_position: z.int().nullable().optional(),
    image_ref: z.string().nullable().optional().meta({ description: 'Reference of the image that was built.' }),
    image_digest: z.string().nullable().optional(),
    error: z.string().nullable().optional().meta({ description: 'Why it failed.' }),
    builder_id: z.string().nullable().optional(),
    builder_instance_id: z.string().nullable().optional(),
    provenance: provenance.optional().meta({ description: 'What it was built from.' }),
    tags: tags.optional(),
  })
  .meta({ id: 'Build', description: 'An image that is, was or will be built from sources.' })

export const buildEvent = z
  .object({
    type: z.enum(['log', 'status', 'heartbeat']),
    timestamp,
    content: z.string().optional().meta({ description: 'With `log`: a line.' }),
    status: buildStatus.optional().meta({ description: 'With `status`: the one that was reached.' }),
  })
  .meta({ id: 'BuildEvent', description: 'One piece of the progress of a build.' })

const numberAsText = (smallest: number) => z.coerce.number().pipe(z.int().min(smallest)).meta({ type: 'integer' })

/** Parts of a form: all of them are text, but for the sources. */
export const createBuildForm = z
  .object({
    source: z.unknown().meta({ type: 'string', format: 'binary', description: 'Sources, as a tar archive compressed with gzip.' }),
    dockerfile: z.string().optional().meta({ description: 'Instead of the one in the archive.' }),
    base_image_digest: z.string().optional(),
    builder_id: z.string().optional().meta({ description: 'Builder whose cache is used.' }),
    cache_scope: z.string().optional(),
    global_cache_key: z.string().optional(),
    image_name: z.string().optional(),
    is_admin_build: z.string().optional().meta({ description: '`true`: may write shared caches.' }),
    secrets: z.string().optional().meta({ description: 'JSON: `[{"id":"…"}]`.' }),
    tags: z.string().optional().meta({ description: 'JSON: an object of strings.' }),
    cpus: numberAsText(1).optional(),
    memory_mb: numberAsText(1).optional(),
    timeout_seconds: numberAsText(1).optional(),
  })
  .meta({ id: 'CreateBuild' })

export const buildParams = z.object({ id: z.string().min(1).meta({ description: 'Id of the build.' }) })

export const buildEventsQuery = z.object({ follow: queryFlag.default(false).meta({ description: 'Goes on until the build has ended.' }) })
