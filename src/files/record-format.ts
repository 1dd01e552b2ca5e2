// JSON records of ours on disk: each kind has a version, and a step from every older version to the next. What can't be read says which file it
// is, why, and what to do. Writing is stage.ts's, the index of what was read each resource's.

import { constants, lstatSync, readFileSync } from 'node:fs'
import { z } from 'zod'
import { parseRecordText } from './record-text.ts'
import { isMissing } from './tree.ts'

/** Larger than any record that the product writes, in bytes: what is above was not written by it. */
const LARGEST_RECORD_BYTES = 16 * 1024 ** 2

/** Links are not followed, and what is no plain file keeps nobody waiting. */
const READ_PLAINLY = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK

/** A record that can't be read. The message names the file, the reason, and what to do. */
export class RecordError extends Error {
  /** A newer version of the product wrote it: it is whole, so nothing here may replace it. */
  readonly newer: boolean

  constructor(message: string, options: { readonly newer?: boolean; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'RecordError'
    this.newer = options.newer ?? false
  }
}

type JsonObject = Readonly<Record<string, unknown>>

/** Turns a record of one version into the next version's; pure. It may rely on what that version's schema said. */
export type RecordStep = (older: JsonObject) => JsonObject

export interface RecordFormatOptions<T> {
  /** What it is, for errors: `instance record`. */
  readonly kind: string
  /** The version that is written. */
  readonly version: number
  /** Of the present version, with `version` as its literal. */
  readonly schema: z.ZodType<T>
  /** Without a checksum it is not taken. Others may be written by hand without one. */
  readonly sealed?: boolean
  /** By the version that each leads on from. Version 0 is the form without a version, where there was one. */
  readonly steps?: Readonly<Record<number, RecordStep>>
}

export interface RecordFormat<T> extends Required<Omit<RecordFormatOptions<T>, 'sealed'>> {
  /** Of any known version, as the present one; `RecordError` otherwise. `file` is for the error. */
  parse(text: string, file: string): T
  /** The same from a file, which must be a plain one. A missing file keeps its ENOENT as `cause`. */
  read(file: string): Promise<T>
  /** For a record that lies inside another, which may be older than it. */
  readonly embedded: z.ZodType<T>
}

export function defineRecord<T>(options: RecordFormatOptions<T>): RecordFormat<T> {
  const { kind, version, schema, sealed = false, steps = {} } = options
  const known = { kind, version, steps }
  const parse = (text: string, file: string): T => {
    const checked = schema.safeParse(upgrade(known, valueOf(text, file, sealed), file))
    if (checked.success) return checked.data
    throw new RecordError(`${file} is no ${kind}: ${problemsOf(checked.error)}; ${repair}`, { newer: holdsNewer(checked.error) })
  }
  const embedded = z.preprocess((value, context) => {
    try {
      return upgrade(known, value, `the ${kind} in it`)
    } catch (error) {
      if (!(error instanceof RecordError)) throw error
      context.addIssue({ code: 'custom', message: error.message, params: { newer: error.newer } })
      return z.NEVER
    }
  }, schema)
  embeddedRecords.add(embedded, { id: kind })
  return { ...known, schema, parse, read: async (file) => parse(readPlainFile(file), file), embedded }
}

/** Names the records that lie in others, whose versions are their own: a change of one is none of what it lies in. */
export const embeddedRecords = z.registry<{ readonly id: string }>()

/** A word that is the name of a file or directory and can lead nowhere else. */
export const fileWord = z.string().regex(/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/, 'not a plain name')

const repair = 'put a good copy back and restart the server, or delete it'

/** Through all steps from the version that it says. */
function upgrade(
  { kind, version, steps }: Pick<RecordFormat<unknown>, 'kind' | 'version' | 'steps'>,
  value: unknown,
  file: string,
): JsonObject {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new RecordError(`${file} is no ${kind}: it holds no JSON object; ${repair}`)
  let record: JsonObject = { ...value }
  const said = record['version'] ?? (steps[0] === undefined ? undefined : 0)
  if (typeof said !== 'number' || !Number.isInteger(said) || said < 0)
    throw new RecordError(`${file} is no ${kind}: it says no version; ${repair}`)
  if (said > version)
    throw new RecordError(
      `${file} has version ${said}, and this hypeman knows ${kind}s up to version ${version}: run the version that wrote it, or a newer one`,
      { newer: true },
    )
  for (let at = said; at < version; at += 1) {
    const step = steps[at]
    if (step === undefined) throw new RecordError(`${file} has version ${at}, which there never was of a ${kind}; ${repair}`)
    record = { ...step(record), version: at + 1 }
  }
  return record
}

function valueOf(text: string, file: string, sealed: boolean): unknown {
  if (text.trim() === '') throw new RecordError(`${file} is empty; ${repair}`)
  try {
    return parseRecordText(text, sealed)
  } catch (cause) {
    throw new RecordError(`${file} was cut off, damaged or edited (${cause instanceof Error ? cause.message : String(cause)}); ${repair}`, {
      cause,
    })
  }
}

/** More problems than a person reads. */
const MOST_PROBLEMS = 3

function problemsOf({ issues }: z.ZodError): string {
  const words = issues.slice(0, MOST_PROBLEMS).map(({ path, message }) => `${path.map(String).join('.') || 'it'}: ${message}`)
  return [...words, ...(issues.length > MOST_PROBLEMS ? [`${issues.length - MOST_PROBLEMS} more`] : [])].join(', ')
}

function holdsNewer({ issues }: z.ZodError): boolean {
  return issues.some((issue) => issue.code === 'custom' && issue.params?.['newer'] === true)
}

/** At once: records are small, and a start reads thousands of them, for which waiting for each costs more than reading it. */
function readPlainFile(file: string): string {
  try {
    const stats = lstatSync(file)
    if (stats.isSymbolicLink()) throw new RecordError(`${file} is a link, which is never followed; ${repair}`)
    if (!stats.isFile()) throw new RecordError(`${file} is no file; ${repair}`)
    if (stats.size > LARGEST_RECORD_BYTES) throw new RecordError(`${file} is larger than any record (${stats.size} bytes); ${repair}`)
    return readFileSync(file, { encoding: 'utf8', flag: READ_PLAINLY })
  } catch (error) {
    if (error instanceof RecordError) throw error
    throw new RecordError(`${file} ${isMissing(error) ? 'is missing' : `can't be read (${String(error)})`}; ${repair}`, { cause: error })
  }
}
