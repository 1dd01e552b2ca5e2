// What the flows of schedules work with, made once by the composition root.

import type { KeyedLock } from '../platform/keyed-lock.ts'
import type { SnapshotContext } from '../snapshots/index.ts'
import type { ScheduleStore } from './store.ts'

export interface ScheduleContext {
  readonly snapshots: SnapshotContext
  readonly store: ScheduleStore
  /** By the id of the instance: held by a run, so that a schedule is not deleted under it. */
  readonly locks: KeyedLock
  /** No schedule may run more often, in milliseconds. */
  readonly shortestIntervalMs: number
}

/** The schedule's lock: nothing of it runs, and it is not deleted, while it is held. */
export function holdSchedule({ locks, snapshots }: ScheduleContext, instanceId: string): Promise<Disposable> {
  return locks.acquire(instanceId, {
    waitMs: snapshots.instances.settings.lockWaitMs,
    what: `the snapshot schedule of instance ${instanceId}`,
  })
}

/** The instance was deleted; one whose record can't be read was not. */
export function isGone({ snapshots: { instances } }: ScheduleContext, instanceId: string): boolean {
  return instances.store.byId(instanceId) === undefined && !instances.store.unreadable().some(({ id }) => id === instanceId)
}
