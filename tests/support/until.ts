// Waiting in tests: for a condition that nothing announces.

import { setTimeout as delay } from 'node:timers/promises'

const POLL_MS = 5

/** Resolves once the condition holds; rejects with its name after `limitMs`. */
export async function until(what: string, holds: () => boolean | Promise<boolean>, limitMs = 30_000): Promise<void> {
  for (const deadline = performance.now() + limitMs; !(await holds()); await delay(POLL_MS))
    if (performance.now() > deadline) throw new Error(`not so after ${limitMs} ms: ${what}`)
}
