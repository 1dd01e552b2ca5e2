// Makes the health checks of running instances, each in its time, never two of one instance at once.

import type { Logger } from 'pino'
import { checkHealth, isCheckDue, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { Turns } from '../platform/turns.ts'
import { eachDue } from './each-due.ts'

/** How often it looks, in milliseconds: a check is late by no more than this, and its turn. */
const INTERVAL_MS = 250
/** More checks at once only make each take longer. */
const AT_ONCE = 16
/** A guest that takes longer to answer does not keep others waiting, in milliseconds. */
const LONG_MS = 250

export function startHealthChecks(context: InstanceContext, log: Logger): AsyncDisposable {
  return eachDue(context, log, {
    intervalMs: INTERVAL_MS,
    isDue,
    act: (entry) => checkHealth(context, entry),
    turns: new Turns(AT_ONCE, LONG_MS),
    failure: 'what follows from a health check could not be recorded; the next one does it',
  })
}

function isDue({ record, health }: InstanceEntry, nowMs: number): boolean {
  const { healthCheck, runningSince } = record
  if (healthCheck === null || runningSince === null) return false
  return isCheckDue(healthCheck, health?.run === runningSince ? health : undefined, nowMs)
}
