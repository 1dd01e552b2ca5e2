// Gives memory back to running guests that was taken from them for a while, when that is over.

import type { Logger } from 'pino'
import { endReclaim, isReclaimOver, type InstanceContext } from '../instances/index.ts'
import { eachDue } from './each-due.ts'

/** How often it looks at what is in memory, in milliseconds. */
const INTERVAL_MS = 1_000

export function startReclaimEnds(context: InstanceContext, log: Logger): AsyncDisposable {
  return eachDue(context, log, {
    intervalMs: INTERVAL_MS,
    isDue: isReclaimOver,
    act: (entry) => endReclaim(context, entry),
    failure: 'memory that was taken from a guest for a while could not be given back',
  })
}
