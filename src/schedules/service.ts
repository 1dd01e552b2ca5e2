// What may be asked of snapshot schedules: find, change, show. Running them is attend.ts's.

import { HypemanError } from '../api/errors.ts'
import type { ScheduleView, SetScheduleBody } from '../api/schemas/schedule.ts'
import { formatDuration, parseDuration } from '../api/units.ts'
import { holdSchedule, type ScheduleContext } from './context.ts'
import type { ScheduleRecord } from './record.ts'
import { firstRun } from './rules.ts'
import type { ScheduleService } from './types.ts'

/** `changed` is told after a schedule was set: it may be due sooner than any other. */
export function createScheduleService(context: ScheduleContext, changed: () => void): ScheduleService {
  const { store, snapshots } = context
  const { instances } = snapshots
  /** The instance whose schedule is meant: its own id finds it also when it is deleted or can't be read. */
  const instanceOf = (ref: string): string =>
    store.byInstance(ref) !== undefined || store.unreadable().has(ref) ? ref : instances.store.find(ref).id
  const find = (ref: string): ScheduleRecord => {
    const id = instanceOf(ref)
    refuseUnreadable(context, id)
    return store.byInstance(id) ?? absent(ref)
  }
  return {
    async set(ref, body) {
      const wanted = wantedOf(body, context.shortestIntervalMs)
      const { id: instanceId } = instances.store.find(ref)
      refuseUnreadable(context, instanceId)
      const record = await store.change(instanceId, 'schedule.set', (present) => changedTo(instanceId, wanted, present, Date.now()))
      changed()
      return viewOf(record)
    },
    get: async (ref) => viewOf(find(ref)),
    async remove(ref) {
      const id = instanceOf(ref)
      using _lock = await holdSchedule(context, id)
      if (!store.unreadable().has(id) && store.byInstance(id) === undefined) absent(ref)
      await store.remove(id, 'schedule.delete')
    },
  }
}

type Wanted = Pick<ScheduleRecord, 'intervalMs' | 'maxCount' | 'maxAgeMs' | 'namePrefix' | 'metadata'>

function wantedOf({ interval, retention, name_prefix: prefix, metadata = {} }: SetScheduleBody, shortestMs: number): Wanted {
  const intervalMs = Math.round(parseDuration(interval) ?? 0)
  if (intervalMs < shortestMs)
    throw new HypemanError('invalid_request', `interval: ${interval} is too short; give at least ${formatDuration(shortestMs)}`)
  return {
    intervalMs,
    maxCount: retention.max_count ?? 0,
    maxAgeMs: Math.ceil(parseDuration(retention.max_age ?? '0s') ?? 0),
    namePrefix: prefix === undefined || prefix === null || prefix === '' ? null : prefix,
    metadata,
  }
}

/** Only another interval begins another rhythm. */
function changedTo(instanceId: string, wanted: Wanted, present: ScheduleRecord | undefined, now: number): ScheduleRecord {
  const updatedAt = new Date(now).toISOString()
  const { intervalMs } = wanted
  if (present !== undefined && present.intervalMs === intervalMs) return { ...present, ...wanted, updatedAt }
  const last = { lastRunAt: null, lastSnapshotId: null, lastError: null }
  const fresh = { version: 1, instanceId, createdAt: updatedAt, ...last } as const
  return { ...(present ?? fresh), ...wanted, updatedAt, nextRunAt: firstRun({ instanceId, intervalMs }, now) }
}

function refuseUnreadable({ store }: ScheduleContext, instanceId: string): void {
  const unreadable = store.unreadable().get(instanceId)
  if (unreadable !== undefined)
    throw new HypemanError('conflict', `the snapshot schedule of ${instanceId} can't be used: ${unreadable.reason}`)
}

function absent(ref: string): never {
  throw new HypemanError('not_found', `${ref} has no snapshot schedule; hypeman snapshot schedule set ${ref} makes one`)
}

function viewOf(record: ScheduleRecord): ScheduleView {
  return {
    instance_id: record.instanceId,
    interval: formatDuration(record.intervalMs),
    retention: {
      ...(record.maxCount === 0 ? {} : { max_count: record.maxCount }),
      ...(record.maxAgeMs === 0 ? {} : { max_age: formatDuration(record.maxAgeMs) }),
    },
    ...(record.namePrefix === null ? {} : { name_prefix: record.namePrefix }),
    ...(Object.keys(record.metadata).length === 0 ? {} : { metadata: { ...record.metadata } }),
    created_at: record.createdAt,
    updated_at: record.updatedAt,
    next_run_at: record.nextRunAt,
    ...(record.lastRunAt === null ? {} : { last_run_at: record.lastRunAt }),
    ...(record.lastSnapshotId === null ? {} : { last_snapshot_id: record.lastSnapshotId }),
    ...(record.lastError === null ? {} : { last_error: record.lastError }),
  }
}
