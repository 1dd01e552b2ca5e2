// The moment in which a machine stands still for a capture, the same for every VMM that is paused and resumed by a command: who is told, what is undone when freezing fails, and how long it took.

import { messageOf } from '../platform/flow.ts'
import type { AroundPause, CaptureReport, Machine } from './driver.ts'

/**
 * Has `freeze` take what it needs of a machine that stands still. The machine runs again when this returns or throws, if it ran before.
 * Whoever is told that it stands still (`around`) is told that it goes on as soon as it does.
 */
export async function whilePaused<T>(
  machine: Machine,
  wasRunning: boolean,
  around: AroundPause | undefined,
  freeze: () => Promise<T>,
): Promise<{ readonly frozen: T; readonly report: Pick<CaptureReport, 'pausedMs' | 'notResumed'> }> {
  if (wasRunning) await around?.before()
  const started = performance.now()
  await using undo = new AsyncDisposableStack()
  // Armed before the pause, whose answer may get lost.
  undo.defer(async () => {
    if (wasRunning) await machine.resume()
  })
  await machine.pause()
  const frozen = await freeze()
  undo.move()
  const notResumed = wasRunning ? await machine.resume().then(() => undefined, messageOf) : undefined
  const pausedMs = performance.now() - started
  if (wasRunning && notResumed === undefined) around?.after()
  return { frozen, report: { pausedMs, ...(notResumed === undefined ? {} : { notResumed }) } }
}
