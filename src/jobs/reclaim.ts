// Gives memory back to running guests that was taken from them for a while, when that is over.

import type { Logger } from 'pino'
import { isHypemanError } from '../api/errors.ts'
import { endReclaim, isReclaimOver, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'

/** How often it looks at what is in memory, in milliseconds. */
const INTERVAL_MS = 1_000

/** Runs until disposed of; what is under way then is waited for. */
export function startReclaimEnds(context: InstanceContext, log: Logger): AsyncDisposable {
  const underWay = new Map<string, Promise<void>>()
  const end = async (entry: InstanceEntry): Promise<void> => {
    try {
      await endReclaim(context, entry)
    } catch (error) {
      if (context.stopping.aborted || isHypemanError(error, 'not_found')) return // the server stops, or it was deleted meanwhile
      log.warn({ instance: entry.id, error: messageOf(error) }, 'memory that was taken from a guest for a while could not be given back')
    } finally {
      underWay.delete(entry.id)
    }
  }
  const timer = setInterval(() => {
    const now = Date.now()
    for (const entry of context.store.entries())
      if (!context.stopping.aborted && isReclaimOver(entry, now) && !underWay.has(entry.id)) underWay.set(entry.id, end(entry))
  }, INTERVAL_MS)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await Promise.all(underWay.values())
    },
  }
}
