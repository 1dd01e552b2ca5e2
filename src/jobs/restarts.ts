// Starts instances again when their restart policy has planned that.

import type { Logger } from 'pino'
import { availableParallelism } from 'node:os'
import { isHypemanError } from '../api/errors.ts'
import { isRestartDue, isUnsettled, restartInstance, settleLate, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'
import { Turns } from '../platform/turns.ts'

/** How often it looks, in milliseconds: a restart is late by no more than this. */
const INTERVAL_MS = 250
/** A restart that takes longer does not keep others waiting, in milliseconds. */
const LONG_MS = 1_000
/** What could not even be recorded, as on a full disk, is tried again after this time, in milliseconds. */
const TRY_AGAIN_MS = 5_000

/** Runs until disposed of; what is under way then is waited for. An attempt that fails is planned again by the flow. */
export function startRestarts(context: InstanceContext, log: Logger): AsyncDisposable {
  // After a loss of power thousands may be due at once.
  const turns = new Turns(2 * availableParallelism(), LONG_MS)
  const restarting = new Map<string, Promise<void>>()
  const failedAt = new WeakMap<InstanceEntry, number>()
  const restart = async (entry: InstanceEntry): Promise<void> => {
    try {
      using _turn = await turns.take(context.stopping)
      if (isUnsettled(entry)) await settleLate(context, entry)
      else await restartInstance(context, entry)
    } catch (error) {
      if (context.stopping.aborted || isHypemanError(error, 'not_found')) return // left to the next server, or deleted meanwhile
      failedAt.set(entry, Date.now())
      log.warn({ instance: entry.id, error: messageOf(error) }, 'an instance could not be started again')
    } finally {
      restarting.delete(entry.id)
    }
  }
  const timer = setInterval(() => {
    const now = Date.now()
    for (const entry of context.store.entries())
      if (
        (isRestartDue(entry.record, now) || isUnsettled(entry)) &&
        !restarting.has(entry.id) &&
        now - (failedAt.get(entry) ?? 0) >= TRY_AGAIN_MS
      )
        restarting.set(entry.id, restart(entry))
  }, INTERVAL_MS)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await Promise.all(restarting.values())
    },
  }
}
