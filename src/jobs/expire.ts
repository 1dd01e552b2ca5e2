// Deletes instances whose time is over.

import type { Logger } from 'pino'
import { removeInstance, type InstanceContext, type InstanceEntry } from '../instances/index.ts'
import { messageOf } from '../platform/flow.ts'

/** How often it looks, in milliseconds: expiry is exact to this. */
const INTERVAL_MS = 1_000

/** Runs until disposed of. A removal that fails is logged and tried again at the next look. `removed` is told after an instance is gone. */
export function startExpiry(context: InstanceContext, log: Logger, removed: () => void): Disposable {
  const removing = new Set<string>()
  const remove = async (entry: InstanceEntry): Promise<void> => {
    try {
      await removeInstance(context, entry, { graceful: false, unless: () => !isOver(entry) })
      removed()
    } catch (error) {
      log.error({ instance: entry.id, error: messageOf(error) }, 'an expired instance could not be deleted')
    } finally {
      removing.delete(entry.id)
    }
  }
  const look = (): void => {
    for (const entry of context.store.entries()) {
      if (!isOver(entry) || removing.has(entry.id)) continue
      removing.add(entry.id)
      log.info({ instance: entry.id, expiresAt: entry.record.expiresAt }, 'the instance has expired and is deleted')
      void remove(entry)
    }
  }
  const timer = setInterval(look, INTERVAL_MS)
  timer.unref()
  return { [Symbol.dispose]: () => clearInterval(timer) }
}

function isOver({ record }: InstanceEntry): boolean {
  return record.expiresAt !== null && Date.parse(record.expiresAt) <= Date.now()
}
