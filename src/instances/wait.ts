// Waits for an instance to reach a state, by its events rather than by asking again and again.

import type { InstanceState } from '../api/actions.ts'
import { HypemanError } from '../api/errors.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import type { DerivedState } from './state.ts'

/** States from which nothing moves by itself: a wait for another one is over. */
const resting: ReadonlySet<InstanceState> = new Set(['Unknown', 'Stopped', 'Standby', 'Shutdown', 'Paused'])
/** A VMM may change without an event of ours (a guest's own pause, a dead socket): look again after this time, in milliseconds. */
const LOOK_AGAIN_MS = 1_000

export interface WaitResult extends DerivedState {
  readonly timedOut: boolean
}

/** Resolves at the state, at another resting state, or after `timeoutMs`. `not_found` if the instance is deleted meanwhile. */
export async function waitForState(
  context: InstanceContext,
  entry: InstanceEntry,
  wanted: InstanceState,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<WaitResult> {
  const until = AbortSignal.any([signal, AbortSignal.timeout(Math.ceil(timeoutMs)), context.stopping])
  let wake = Promise.withResolvers<void>()
  const nudge = (): void => wake.resolve()
  using _subscription = context.events.subscribe((id) => {
    if (id === entry.id) nudge()
  })
  until.addEventListener('abort', nudge, { once: true })
  for (;;) {
    const timer = setTimeout(nudge, LOOK_AGAIN_MS)
    try {
      const seen = await entry.observe()
      if (context.store.byId(entry.id) !== entry)
        throw new HypemanError('not_found', `the instance ${entry.record.name} was deleted while it was waited for`)
      if (!entry.settling && (seen.state === wanted || (resting.has(seen.state) && !isOnItsWay(context, entry))))
        return { ...seen, timedOut: false }
      if (until.aborted) return { ...seen, timedOut: true }
      await wake.promise
      wake = Promise.withResolvers<void>()
    } finally {
      clearTimeout(timer)
    }
  }
}

/** True while work is under way that may change the state. */
function isOnItsWay(context: InstanceContext, entry: InstanceEntry): boolean {
  return entry.readying !== undefined || entry.removing || entry.record.restarts.nextAttemptAt !== null || context.locks.isHeld(entry.id)
}
