// How long a guest's agent may take to answer what is asked of it over HTTP.

import { HypemanError } from '../api/errors.ts'
import type { InstanceEntry } from './entry.ts'

/** What `ask` answers; `guest_unreachable` if that takes longer. The signal that it gets ends it then. */
export async function withinLimit<T>(
  { record }: Pick<InstanceEntry, 'record'>,
  limitMs: number,
  signal: AbortSignal,
  ask: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const limit = AbortSignal.timeout(limitMs)
  try {
    return await ask(AbortSignal.any([signal, limit]))
  } catch (cause) {
    if (!limit.aborted || signal.aborted) throw cause
    throw new HypemanError('guest_unreachable', `the guest agent of ${record.name} did not answer within ${limitMs / 1000} s`, { cause })
  }
}
