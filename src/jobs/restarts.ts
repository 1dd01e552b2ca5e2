// Starts instances again when their restart policy has planned that.

import type { Logger } from 'pino'
import { availableParallelism } from 'node:os'
import { isRestartDue, isUnsettled, restartInstance, settleLate, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { Turns } from '../platform/turns.ts'
import { eachDue } from './each-due.ts'

/** How often it looks, in milliseconds: a restart is late by no more than this. */
const INTERVAL_MS = 250
/** A restart that takes longer does not keep others waiting, in milliseconds. */
const LONG_MS = 1_000
/** What could not even be recorded, as on a full disk, is tried again after this time, in milliseconds. */
const TRY_AGAIN_MS = 5_000

/** An attempt that fails is planned again by the flow. */
export function startRestarts(context: InstanceContext, log: Logger): AsyncDisposable {
  const failedAt = new WeakMap<InstanceEntry, number>()
  return eachDue(context, log, {
    intervalMs: INTERVAL_MS,
    isDue: (entry, now) => (isRestartDue(entry.record, now) || isUnsettled(entry)) && now - (failedAt.get(entry) ?? 0) >= TRY_AGAIN_MS,
    act: (entry) => (isUnsettled(entry) ? settleLate(context, entry) : restartInstance(context, entry)),
    // After a loss of power thousands may be due at once.
    turns: new Turns(2 * availableParallelism(), LONG_MS),
    failure: 'an instance could not be started again',
    failed: (entry) => failedAt.set(entry, Date.now()),
  })
}
