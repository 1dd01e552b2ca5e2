// Makes the health checks of running instances, each in its time, never two of one instance at once.

import type { Logger } from 'pino'
import { isHypemanError } from '../api/errors.ts'
import { checkHealth, isCheckDue, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'
import { Turns } from '../platform/turns.ts'

/** How often it looks, in milliseconds: a check is late by no more than this, and its turn. */
const INTERVAL_MS = 250
/** More checks at once only make each take longer. */
const AT_ONCE = 16
/** A guest that takes longer to answer does not keep others waiting, in milliseconds. */
const LONG_MS = 250

/** Runs until disposed of; checks that are under way then are waited for. */
export function startHealthChecks(context: InstanceContext, log: Logger): AsyncDisposable {
  const turns = new Turns(AT_ONCE, LONG_MS)
  const checking = new Map<string, Promise<void>>()
  const check = async (entry: InstanceEntry): Promise<void> => {
    try {
      using _turn = await turns.take(context.stopping)
      await checkHealth(context, entry)
    } catch (error) {
      if (context.stopping.aborted || isHypemanError(error, 'not_found')) return // the server stops, or the instance was deleted meanwhile
      log.warn(
        { instance: entry.id, error: messageOf(error) },
        'what follows from a health check could not be recorded; the next one does it',
      )
    } finally {
      checking.delete(entry.id)
    }
  }
  const timer = setInterval(() => {
    const now = Date.now()
    for (const entry of context.store.entries()) if (isDue(entry, now) && !checking.has(entry.id)) checking.set(entry.id, check(entry))
  }, INTERVAL_MS)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await Promise.all(checking.values())
    },
  }
}

function isDue({ record, health }: InstanceEntry, nowMs: number): boolean {
  const { healthCheck, runningSince } = record
  if (healthCheck === null || runningSince === null) return false
  return isCheckDue(healthCheck, health?.run === runningSince ? health : undefined, nowMs)
}
