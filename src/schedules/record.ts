// A snapshot schedule's record on disk (`schedules/<instance id>.json`): what was asked for, when it runs next, and what became of the last run.

import { z } from 'zod'
import { tags, timestamp } from '../api/schemas/common.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'

const scheduleRecord = z
  .object({
    version: z.literal(1),
    instanceId: fileWord,
    createdAt: timestamp,
    updatedAt: timestamp,
    intervalMs: z.int().positive(),
    /** 0: any number. */
    maxCount: z.int().min(0),
    /** 0: of any age. */
    maxAgeMs: z.int().min(0),
    namePrefix: z.string().nullable(),
    metadata: tags.readonly(),
    /** Moves on by whole intervals, so that the rhythm stays what it was. */
    nextRunAt: timestamp,
    lastRunAt: timestamp.nullable(),
    lastSnapshotId: z.string().nullable(),
    lastError: z.string().nullable(),
  })
  .readonly()

export const scheduleFormat = defineRecord({ kind: 'snapshot schedule', version: 1, schema: scheduleRecord })

export type ScheduleRecord = z.infer<typeof scheduleRecord>
