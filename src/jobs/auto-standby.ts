// Puts instances on standby that nobody has used for as long as their policies say.

import type { Logger } from 'pino'
import { availableParallelism } from 'node:os'
import { isHypemanError } from '../api/errors.ts'
import { isStandbyDue, isWatched, lookAround, standbyIdle, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'
import { Turns } from '../platform/turns.ts'

/** How often it looks, in milliseconds: one look for all instances, and none where no policy is enabled. */
const INTERVAL_MS = 1_000
/** One that takes longer, since it has much memory to write, does not keep others waiting, in milliseconds. */
const LONG_MS = 10_000

/** Runs until disposed of; what is under way then is waited for. */
export function startAutoStandby(context: InstanceContext, log: Logger): AsyncDisposable {
  const turns = new Turns(availableParallelism(), LONG_MS)
  const underWay = new Map<string, Promise<void>>()
  let looking: Promise<void> | undefined
  const suspend = async (entry: InstanceEntry): Promise<void> => {
    try {
      using _turn = await turns.take(context.stopping)
      if (await standbyIdle(context, entry)) log.info({ instance: entry.id }, 'an instance that nobody used is on standby')
    } catch (error) {
      if (context.stopping.aborted || isHypemanError(error, 'not_found')) return // the server stops, or it was deleted meanwhile
      log.warn({ instance: entry.id, error: messageOf(error) }, 'an instance that nobody uses could not be put on standby')
    } finally {
      underWay.delete(entry.id)
    }
  }
  const look = async (): Promise<void> => {
    const watched = [...context.store.entries()].filter(isWatched)
    if (watched.length === 0) return
    await lookAround(context, watched)
    const now = Date.now()
    for (const entry of watched)
      // While an operation on it is under way nothing is decided: the next look is soon.
      if (isStandbyDue(context, entry, now) && !underWay.has(entry.id) && !context.locks.isHeld(entry.id) && !context.stopping.aborted)
        underWay.set(entry.id, suspend(entry))
  }
  const timer = setInterval(() => {
    looking ??= look()
      .catch((error: unknown) => log.error({ error }, 'who uses which instance could not be looked at'))
      .finally(() => (looking = undefined))
  }, INTERVAL_MS)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await looking
      await Promise.all(underWay.values())
    },
  }
}
