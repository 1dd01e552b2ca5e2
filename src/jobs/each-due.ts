// What is done with each instance for which it is due: looked for at an interval, in the background, and never twice at once for one instance.

import type { Logger } from 'pino'
import { isHypemanError } from '../api/errors.ts'
import type { InstanceContext, InstanceEntry } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'
import type { Turns } from '../platform/turns.ts'

export interface PeriodicWork {
  /** How often it is looked for, in milliseconds: the work is late by no more than this, and its turn. */
  readonly intervalMs: number
  readonly isDue: (entry: InstanceEntry, nowMs: number) => boolean
  readonly act: (entry: InstanceEntry) => Promise<void>
  /** How much is done at once; absent: all. */
  readonly turns?: Turns
  /** For the log, when it fails. */
  readonly failure: string
  readonly failed?: (entry: InstanceEntry) => void
}

/** Runs until disposed of; what is under way then is waited for. */
export function eachDue(context: InstanceContext, log: Logger, work: PeriodicWork): AsyncDisposable {
  const underWay = new Map<string, Promise<void>>()
  const run = async (entry: InstanceEntry): Promise<void> => {
    try {
      using _turn = await work.turns?.take(context.stopping)
      await work.act(entry)
    } catch (error) {
      if (context.stopping.aborted || isHypemanError(error, 'not_found')) return // left to the next server, or deleted meanwhile
      work.failed?.(entry)
      log.warn({ instance: entry.id, error: messageOf(error) }, work.failure)
    } finally {
      underWay.delete(entry.id)
    }
  }
  const timer = setInterval(() => {
    const now = Date.now()
    for (const entry of context.store.entries())
      if (!context.stopping.aborted && !underWay.has(entry.id) && work.isDue(entry, now)) underWay.set(entry.id, run(entry))
  }, work.intervalMs)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await Promise.all(underWay.values())
    },
  }
}
