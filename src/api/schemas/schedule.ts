// Snapshot schedules on the wire (`/instances/{id}/snapshot-schedule`): the instance is snapshotted by itself, and what is old is deleted.

import { z } from 'zod'
import { parseDuration } from '../units.ts'
import { duration, resourceName, tags, timestamp } from './common.ts'

/** Longest prefix: with a dash and the time behind it a name has 63 characters. */
const LONGEST_PREFIX = 47
/** Tags that a schedule adds to those that were asked for. */
const OWN_TAGS = 2

const retentionFields = {
  max_count: z.int().min(0).optional().meta({ description: 'So many scheduled snapshots stay, the newest; 0: any number.' }),
  max_age: duration('invalid_request').optional().meta({ description: 'What is older goes, such as `168h`; `0s`: none.' }),
}

const retention = z
  .object(retentionFields)
  .refine(
    ({ max_count: count = 0, max_age: age = '0s' }) => count > 0 || parseDuration(age) !== 0,
    'give max_count or max_age, or both, above zero',
  )
  .meta({
    description:
      'Which scheduled snapshots stay when a new one was taken, by count, age or both. The new one stays in any case; snapshots that no schedule took are never touched.',
  })

const metadata = tags
  .refine((all) => Object.keys(all).length <= 50 - OWN_TAGS, `at most ${50 - OWN_TAGS} tags: a schedule adds ${OWN_TAGS}`)
  .meta({ description: 'Tags of the snapshots; `hypeman.scheduled` and `hypeman.schedule_instance_id` are added to them.' })

export const setScheduleBody = z
  .object({
    interval: duration('invalid_request').meta({ description: 'A duration such as `24h`, from a minute on.' }),
    retention,
    name_prefix: z
      .union([z.literal(''), resourceName.max(LONGEST_PREFIX, `a prefix has at most ${LONGEST_PREFIX} characters`)])
      .nullable()
      .optional()
      .meta({ description: 'What names begin with, before the time in UTC: `nightly-20260102-030405`. By default `scheduled`.' }),
    metadata: metadata.optional(),
  })
  .meta({ id: 'SetSnapshotSchedule' })

export type SetScheduleBody = z.infer<typeof setScheduleBody>

export const schedule = z
  .object({
    instance_id: z.string(),
    interval: z.string().meta({ description: "In the normal form of Go's durations: `24h0m0s`." }),
    retention: z.object(retentionFields).meta({ description: 'What there is no limit of is absent.' }),
    name_prefix: z.string().nullable().optional(),
    metadata: tags.optional(),
    created_at: timestamp,
    updated_at: timestamp.meta({ description: 'Of the last change by a request.' }),
    next_run_at: timestamp,
    last_run_at: timestamp.nullable().optional().meta({ description: 'When the last run began.' }),
    last_snapshot_id: z.string().nullable().optional().meta({ description: 'Of the last run that took one; it may be deleted since.' }),
    last_error: z
      .string()
      .nullable()
      .optional()
      .meta({ description: 'Why the last run took none, or did not delete all that it should have.' }),
  })
  .meta({ id: 'SnapshotSchedule' })

export type ScheduleView = z.infer<typeof schedule>
