// Losses of power in a recording: at which instants, what survives, and what is expected to be there afterwards.

import assert from 'node:assert/strict'
import { seededRandom } from '../model/random.ts'
import type { Expectation } from './history.ts'
import type { Survival } from './replay.ts'
import type { Told } from './tell.ts'

/** A disk after a loss of power. */
export interface Loss {
  /** The last epoch whose sync had ended, counted from 0. */
  readonly epoch: number
  /** Chance of what was written since to be there all the same; 0: all of it is lost. */
  readonly chance: number
  readonly seed: number
}

/** The last sync before each answer. */
export function lossesAtAnswers({ recording, history }: Told): Loss[] {
  const epochs = history.answers.map((answer) => recording.epochs.findLastIndex(({ end }) => end <= answer))
  return [...new Set(epochs)].map((epoch) => ({ epoch, chance: 0, seed: 0 }))
}

/** Every sync: nothing that came after it is there. */
export function lossesAtSyncs(told: Told): Loss[] {
  return told.recording.epochs
    .slice(0, -1) // no sync has ended the last one
    .map((_, epoch) => ({ epoch, chance: 0, seed: 0 }))
    .filter((loss) => expectedAfter(loss, told).length > 0)
}

/** The syncs while those things were under way whose titles (story.ts) match: at least one. */
export function lossesWhile(told: Told, title: RegExp): Loss[] {
  const losses = lossesAtSyncs(told).filter((loss) => expectedAfter(loss, told).some(({ when }) => title.test(when)))
  assert.notEqual(losses.length, 0, `nothing was synced ${title}`)
  return losses
}

/** Just before the end of every sync but the first: of what it was asked to keep chance decides, piece by piece. */
export function lossesBetweenSyncs(told: Told, seed: number): Loss[] {
  const random = seededRandom(seed)
  return lossesAtSyncs(told)
    .map(({ epoch }) => ({ epoch, chance: random.oneOf([0.1, 0.5, 0.9]) ?? 0.5, seed }))
    .filter((loss) => expectedAfter(loss, told).length > 0)
}

/** Some of them, chosen by chance, in their order. */
export function sample(losses: readonly Loss[], count: number, seed: number): Loss[] {
  const random = seededRandom(seed)
  let wanted = count
  return losses.filter((_, index) => {
    const chosen = random.chance(wanted / (losses.length - index))
    if (chosen) wanted -= 1
    return chosen
  })
}

/**
 * Whatever came between that sync and the end of the next leaves the same disk if all of it is lost: it must do for each of these instants. If chance lets
 * some of it survive, it was all written by then.
 */
export function expectedAfter({ epoch, chance }: Loss, { recording, history }: Told): Expectation[] {
  const { end = 0 } = recording.epochs[epoch] ?? {}
  const next = recording.epochs[epoch + 1] ?? { written: end, end: Infinity }
  return history.during(chance === 0 ? end : next.written, next.end)
}

/** Chance is the same again for the same loss. */
export function survivalOf({ chance, seed, epoch }: Loss): Survival {
  const random = seededRandom(seed * 65_536 + epoch)
  return () => random.chance(chance)
}
