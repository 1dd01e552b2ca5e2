// When a schedule runs, what its snapshots are called, and which of them go. Pure: whoever calls says what time it is (milliseconds since 1970).

import { createHash } from 'node:crypto'
import type { SnapshotRecord } from '../snapshots/index.ts'
import type { ScheduleRecord } from './record.ts'

/** Schedules of one interval, set at once, spread over this part of it, */
const JITTER_SHARE = 0.1
/** but over no more than this, in milliseconds. */
const MOST_JITTER_MS = 15 * 60_000

type Rhythm = Pick<ScheduleRecord, 'instanceId' | 'intervalMs' | 'nextRunAt'>

/** How much later than asked a rhythm begins, in milliseconds: always the same for an instance and interval. */
export function jitterOf(instanceId: string, intervalMs: number): number {
  const share = createHash('sha256').update(instanceId).digest().readUInt32BE(0) / 2 ** 32
  return Math.floor(share * Math.min(intervalMs * JITTER_SHARE, MOST_JITTER_MS))
}

/** The first run of a rhythm that begins now. */
export function firstRun({ instanceId, intervalMs }: Omit<Rhythm, 'nextRunAt'>, now: number): string {
  return timeOf(now + intervalMs + jitterOf(instanceId, intervalMs))
}

/** The run after one that was due: the first of its rhythm that is still to come. What was missed is not made up for. */
export function runAfter({ intervalMs, nextRunAt }: Rhythm, now: number): string {
  const due = Date.parse(nextRunAt)
  const intervals = Math.max(1, Math.floor((now - due) / intervalMs) + 1)
  return timeOf(due + intervals * intervalMs)
}

export function isDue({ nextRunAt }: Rhythm, now: number): boolean {
  return Date.parse(nextRunAt) <= now
}

/** It is further away than any rhythm leads: the clock was set back since. */
export function isAstray({ instanceId, intervalMs, nextRunAt }: Rhythm, now: number): boolean {
  return Date.parse(nextRunAt) > now + intervalMs + jitterOf(instanceId, intervalMs)
}

/** The next run, of the same rhythm, after the clock was set back. */
export function broughtBack({ intervalMs, nextRunAt }: Rhythm, now: number): string {
  const due = Date.parse(nextRunAt)
  return timeOf(due - Math.floor((due - now) / intervalMs) * intervalMs)
}

/** `<prefix>-YYYYMMDD-HHMMSS`, UTC: at most 63 characters for a prefix of at most 47. */
export function snapshotName({ namePrefix }: Pick<ScheduleRecord, 'namePrefix'>, now: number): string {
  const [date = '', time = ''] = timeOf(now).replaceAll(/[-:]/g, '').split('T')
  return `${namePrefix ?? 'scheduled'}-${date}-${time.slice(0, 6)}`
}

/** The metadata as tags, with what tells people and filters where the snapshot comes from. What may be deleted goes by the record alone. */
export function snapshotTags({ instanceId, metadata }: Pick<ScheduleRecord, 'instanceId' | 'metadata'>): Record<string, string> {
  return { ...metadata, 'hypeman.scheduled': 'true', 'hypeman.schedule_instance_id': instanceId }
}

type Candidate = Pick<SnapshotRecord, 'id' | 'createdAt' | 'scheduled' | 'sourceInstanceId'>

/** Of all snapshots those that the schedule does not keep, oldest first. The one that was just taken is the newest, whatever the clock says. */
export function surplus<Snapshot extends Candidate>(
  snapshots: readonly Snapshot[],
  { instanceId, maxCount, maxAgeMs }: Pick<ScheduleRecord, 'instanceId' | 'maxCount' | 'maxAgeMs'>,
  justTaken: string | undefined,
  now: number,
): Snapshot[] {
  const others = snapshots
    .filter(({ id, scheduled, sourceInstanceId }) => scheduled && sourceInstanceId === instanceId && id !== justTaken)
    .toSorted((one, other) => Date.parse(one.createdAt) - Date.parse(other.createdAt))
  const stay = maxCount - (justTaken === undefined ? 0 : 1)
  return others.filter(
    ({ createdAt }, index) => (maxCount > 0 && index < others.length - stay) || (maxAgeMs > 0 && Date.parse(createdAt) < now - maxAgeMs),
  )
}

function timeOf(ms: number): string {
  return new Date(ms).toISOString()
}
