// Deletes instances whose time is over.

import type { Logger } from 'pino'
import { removeInstance, type InstanceContext } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'

/** How often it looks, in milliseconds: expiry is exact to this. */
const INTERVAL_MS = 1_000

/** Runs until disposed of. A removal that fails is logged and tried again at the next look. */
export function startExpiry(context: InstanceContext, log: Logger): Disposable {
  const removing = new Set<string>()
  const look = (): void => {
    const now = Date.now()
    for (const entry of context.store.entries()) {
      const { expiresAt } = entry.record
      if (expiresAt === null || Date.parse(expiresAt) > now || removing.has(entry.id)) continue
      removing.add(entry.id)
      log.info({ instance: entry.id, expiresAt }, 'the instance has expired and is deleted')
      removeInstance(context, entry, false)
        .catch((error: unknown) => log.error({ instance: entry.id, error: messageOf(error) }, 'an expired instance could not be deleted'))
        .finally(() => removing.delete(entry.id))
    }
  }
  const timer = setInterval(look, INTERVAL_MS)
  timer.unref()
  return { [Symbol.dispose]: () => clearInterval(timer) }
}
