// Flow: what a schedule needs now. As a rule that is a run: a snapshot of its instance, a note of what became of it, and then the end of those that it
// does not keep. Failures go to the schedule's status and end neither it nor the rhythm.

import { isHypemanError } from '../api/errors.ts'
import { messageOf } from '../platform/flow.ts'
import { captureSnapshot, removeSnapshot, type SnapshotRecord } from '../snapshots/index.ts'
import { holdSchedule, isGone, type ScheduleContext } from './context.ts'
import type { ScheduleRecord } from './record.ts'
import { broughtBack, isAstray, isDue, runAfter, snapshotName, snapshotTags, surplus } from './rules.ts'

/** Flow of everything that a schedule does by itself. */
const FLOW = 'schedule.run'

/** There is something to do for the schedule at this time. */
export function needsAttention(context: ScheduleContext, schedule: ScheduleRecord, now: number): boolean {
  return isDue(schedule, now) || isAstray(schedule, now) || isLeftOver(context, schedule.instanceId)
}

/**
 * Does it. A run that the end of the server cuts off before there is a snapshot was none: it is due when the server is back. `removed` is told after
 * snapshots are gone. Throws what keeps the schedule's own record from being written or removed.
 */
export async function attendSchedule(context: ScheduleContext, instanceId: string, removed: () => void): Promise<void> {
  using _lock = await holdSchedule(context, instanceId)
  const { store } = context
  if (isLeftOver(context, instanceId)) await store.remove(instanceId, FLOW, () => isLeftOver(context, instanceId))
  const schedule = store.byInstance(instanceId)
  const now = Date.now()
  if (schedule === undefined) return
  if (isAstray(schedule, now))
    await store.note(instanceId, FLOW, (present) =>
      isAstray(present, now) ? { ...present, nextRunAt: broughtBack(present, now) } : present,
    )
  else if (isDue(schedule, now)) await (isGone(context, instanceId) ? runWithout : run)(context, schedule, removed)
}

/** Its instance is deleted, and so are the snapshots that it took; what can't be read may be one. */
function isLeftOver(context: ScheduleContext, instanceId: string): boolean {
  if (!isGone(context, instanceId)) return false
  const { store } = context.snapshots
  return store.unreadable.size === 0 && store.scheduledOf(instanceId).length === 0
}

async function run(context: ScheduleContext, schedule: ScheduleRecord, removed: () => void): Promise<void> {
  const { instances } = context.snapshots
  const { instanceId } = schedule
  const began = Date.now()
  const taken = await take(context, schedule, began)
  if (instances.stopping.aborted && taken.snapshot === undefined) return
  await done(context, schedule, (present) => ({
    ...present,
    lastRunAt: new Date(began).toISOString(),
    lastSnapshotId: taken.snapshot?.id ?? present.lastSnapshotId,
    lastError: taken.error ?? null,
  }))
  // What a failed run would delete may be the last that is good.
  if (taken.snapshot === undefined) return
  const error = await deleteSurplus(context, instanceId, taken.snapshot.id, removed)
  if (error !== undefined) await context.store.note(instanceId, FLOW, (present) => ({ ...present, lastError: error }))
}

/** The instance is deleted: only the age of its snapshots still ends them. */
async function runWithout(context: ScheduleContext, schedule: ScheduleRecord, removed: () => void): Promise<void> {
  const error = await deleteSurplus(context, schedule.instanceId, undefined, removed)
  await done(context, schedule, (present) => ({ ...present, lastError: error ?? null }))
}

/** Notes what became of a run, and when the next one is; one whose interval was changed meanwhile has another rhythm already. */
async function done(
  { store }: ScheduleContext,
  schedule: ScheduleRecord,
  change: (present: ScheduleRecord) => ScheduleRecord,
): Promise<void> {
  await store.note(schedule.instanceId, FLOW, (present) => ({
    ...change(present),
    nextRunAt: present.nextRunAt === schedule.nextRunAt ? runAfter(schedule, Date.now()) : present.nextRunAt,
  }))
}

interface Taken {
  readonly snapshot?: SnapshotRecord
  readonly error?: string
}

async function take({ snapshots }: ScheduleContext, schedule: ScheduleRecord, now: number): Promise<Taken> {
  const { instances } = snapshots
  const { instanceId } = schedule
  try {
    const entry = instances.store.find(instanceId)
    const request = {
      ...({ kind: 'by state', name: snapshotName(schedule, now), tags: snapshotTags(schedule) } as const),
      ...({ owner: entry.record.owner, scheduled: true, compression: 'by policy' } as const),
    }
    const snapshot = await captureSnapshot(snapshots, entry, request)
    instances.log.info(
      { instance: instanceId, snapshot: snapshot.id, name: snapshot.name, ms: Date.now() - now },
      'scheduled snapshot taken',
    )
    return { snapshot }
  } catch (error) {
    if (!instances.stopping.aborted)
      instances.log.warn({ instance: instanceId, error: messageOf(error) }, 'a scheduled snapshot could not be taken')
    return { error: messageOf(error) }
  }
}

/** Deletes what the schedule, as it is now, does not keep. One that is being forked or restored is left to a later run. Returns what could not be deleted, in words. */
async function deleteSurplus(
  { snapshots, store }: ScheduleContext,
  instanceId: string,
  justTaken: string | undefined,
  removed: () => void,
): Promise<string | undefined> {
  const { log, stopping } = snapshots.instances
  const schedule = store.byInstance(instanceId)
  const failures: string[] = []
  let count = 0
  for (const snapshot of schedule === undefined ? [] : surplus(snapshots.store.scheduledOf(instanceId), schedule, justTaken, Date.now())) {
    if (stopping.aborted) break
    try {
      await removeSnapshot(snapshots, snapshot, 0)
      count += 1
      log.info({ instance: instanceId, snapshot: snapshot.id, name: snapshot.name }, 'scheduled snapshot deleted, as its schedule says')
    } catch (error) {
      if (stopping.aborted || isHypemanError(error, 'busy') || isHypemanError(error, 'not_found')) continue
      failures.push(`${snapshot.name}: ${messageOf(error)}`)
      log.warn({ instance: instanceId, snapshot: snapshot.id, error: messageOf(error) }, 'a scheduled snapshot could not be deleted')
    }
  }
  if (count > 0) removed()
  return failures.length === 0 ? undefined : `older snapshots could not be deleted: ${failures.join('; ')}`
}
