// Compresses the memory of instances in standby that is to be compressed, when its time has come.

import { compressIfDue, type InstanceContext } from '../instances/index.ts'

/** How often it looks, in milliseconds: at what is in memory, and at files only where there is something to compress. */
const INTERVAL_MS = 1_000

/** Runs until disposed of; what is under way then, which the end of the server cuts off, is waited for. */
export function startStandbyCompression(context: InstanceContext): AsyncDisposable {
  const timer = setInterval(() => {
    const now = Date.now()
    for (const entry of context.store.entries()) {
      if (context.compressions.isFull || context.stopping.aborted) return
      compressIfDue(context, entry, now)
    }
  }, INTERVAL_MS)
  timer.unref()
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(timer)
      await Promise.all([...context.store.entries()].flatMap(({ compressing }) => compressing?.done ?? []))
    },
  }
}
