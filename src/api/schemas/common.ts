// Words that several resources share on the wire: names, tags, sizes, durations, errors.
// A failed check may name its error code (`params.code`); without one it is `invalid_request`.

import { z } from 'zod'
import type { ErrorCode } from '../errors.ts'
import { parseBandwidth, parseDuration, parseRate, parseSize } from '../units.ts'
import { secretFiles } from './secret-files.ts'

export const hypervisorNames = ['cloud-hypervisor', 'firecracker', 'qemu', 'qemu-microvm', 'vz'] as const
export const hypervisorName = z.enum(hypervisorNames)
export type HypervisorName = z.infer<typeof hypervisorName>

/** A string that must pass a check; what fails it is answered with the code. */
function checked(check: (text: string) => boolean, code: ErrorCode, error: string): z.ZodString {
  return z.string().refine(check, { error, params: { code } })
}

const namePattern = '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'

/** Name of an instance, fork or snapshot. */
export const resourceName = checked(
  (name) => name.length <= 63 && new RegExp(namePattern).test(name),
  'invalid_name',
  'a name is lower-case letters, digits and dashes, no dash first or last, at most 63 characters',
).meta({ pattern: namePattern, minLength: 1, maxLength: 63 })

export const imageReference = z
  .string()
  .min(1)
  .max(1024)
  .meta({ examples: ['docker.io/library/alpine:3.20'] })

export const platform = checked(
  (text) => /^linux\/(amd64|arm64)(\/[a-z0-9.]+)?$/.test(text),
  'invalid_platform',
  'a platform is linux/amd64 or linux/arm64',
).meta({ examples: ['linux/amd64'] })

export const size = (code: 'invalid_size' | 'invalid_hotplug_size' | 'invalid_overlay_size'): z.ZodString =>
  checked((text) => parseSize(text) !== undefined, code, 'a size is a number and a unit, such as 512MB or 2GB')

export const duration = (
  code: Extract<
    ErrorCode,
    | ('invalid_ttl' | 'invalid_timeout' | 'invalid_restart_policy' | 'invalid_health_check' | 'invalid_auto_standby' | 'invalid_request')
    | ('invalid_snapshot_policy' | 'invalid_compression_delay')
  >,
): z.ZodString => checked((text) => (parseDuration(text) ?? -1) >= 0, code, 'a duration is numbers and units, such as 90s, 5m or 1h30m')

/** Of TCP or UDP. */
export const port = z.int().min(1).max(65_535)

/** Empty: no limit. */
export const rate = checked(
  (text) => text === '' || parseRate(text) !== undefined,
  'invalid_disk_io_bps',
  'a rate is a size per second, such as 100MB/s',
)

/** Empty: no limit. */
export const bandwidth = (code: 'invalid_bandwidth_download' | 'invalid_bandwidth_upload'): z.ZodString =>
  checked(
    (text) => text === '' || parseBandwidth(text) !== undefined,
    code,
    'a bandwidth is bits or bytes per second, such as 1Gbps or 125MB/s',
  )

export const expiresAt = checked(
  (text) => z.iso.datetime({ offset: true }).safeParse(text).success,
  'invalid_expires_at',
  'a time is RFC 3339, such as 2030-01-31T12:00:00Z',
).meta({ format: 'date-time' })

const tagCharacters = /^[A-Za-z0-9 _.:/=+@-]*$/
const tagText = (min: number, max: number, what: string): z.ZodString =>
  z.string().min(min).max(max).regex(tagCharacters, `a tag ${what} is letters, digits, spaces and _.:/=+@-`)

export const tags = z
  .record(tagText(1, 128, 'key'), tagText(0, 256, 'value'))
  .refine((all) => Object.keys(all).length <= 50, 'at most 50 tags')
  .meta({ description: 'Free words for filtering: at most 50, keys of 1 to 128 and values of 0 to 256 characters.' })

export type Tags = z.infer<typeof tags>

/** `?tags[team]=backend&tags[env]=dev`: all pairs must match exactly. */
export const tagFilter = z
  .record(z.string(), z.string())
  .optional()
  .meta({ description: 'Only what carries all of these tags: `?tags[team]=backend&tags[env]=dev`.' })

export const environment = z
  .record(
    z.string().regex(/^[^=\0]+$/, 'the name of an environment variable is not empty and has no ='),
    z.string().regex(/^[^\0]*$/, 'a value has no zero bytes'),
  )
  .meta({ description: 'Environment variables.' })

export const secretEnvironment = environment.optional().meta({
  description:
    'Environment variables that are secret: sealed on disk, shown nowhere, and not had by forks of others unless `inherit_secrets` says so.',
})

export const inheritSecrets = z.boolean().optional().meta({
  description: 'Forks that others make have the secrets which the caller gave, too. By default only forks of the same caller have them.',
})

/** What a fork is given. */
export const forkEnvironment = {
  env: environment.optional().meta({
    description:
      "Variables to add to the source's, or to give other values. A program that goes on from memory keeps its own; what exec, hooks and later starts run has these, and `/run/hypeman/env` in the guest names them.",
  }),
  secret_env: secretEnvironment,
  secret_files: secretFiles,
  inherit_secrets: inheritSecrets,
}

export const arguments_ = z.array(z.string().regex(/^[^\0]*$/, 'an argument has no zero bytes'))

/** `true`, `false`, `1` or `0` in a query. */
export const queryFlag = z.stringbool({ truthy: ['true', '1'], falsy: ['false', '0'] }).meta({ type: 'boolean' })

export const timestamp = z.iso.datetime({ offset: true })

export const errorBody = z
  .object({
    code: z.string().meta({ description: 'A row of the error table, for programs.' }),
    message: z.string().meta({ description: 'What failed, on what, and what to do next, for people.' }),
    details: z.array(z.object({ code: z.string().optional(), message: z.string().optional() })).optional(),
    request_id: z.string().optional().meta({ description: "With 500 only: the id under which the server's log has the details." }),
  })
  .meta({ id: 'Error', description: 'Every answer of status 400 and above.' })

export type ErrorBody = z.infer<typeof errorBody>

/** Whether the tags of a thing match a filter. */
export function matchesTags(own: Readonly<Record<string, string>>, filter: Readonly<Record<string, string>> | undefined): boolean {
  return filter === undefined || Object.entries(filter).every(([key, value]) => own[key] === value)
}
