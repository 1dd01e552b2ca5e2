// Proof that a guest's agent is alive, asked for before anything that can't be undone in the guest.

import { HypemanError } from '../api/errors.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf } from './machine.ts'

/** Until an agent that was ready before must answer, in milliseconds. */
const PROOF_TIMEOUT_MS = 10_000

/** Resolves when the agent has answered; `guest_unreachable` otherwise. An instance without agent gate needs no proof. */
export async function proveAgent(context: InstanceContext, entry: InstanceEntry, signal: AbortSignal): Promise<void> {
  if (entry.record.skipGuestAgent) return
  const deadline = AbortSignal.timeout(PROOF_TIMEOUT_MS)
  const either = AbortSignal.any([signal, deadline])
  try {
    await (await agentOf(entry, context, either)).health(either)
  } catch (cause) {
    if (!deadline.aborted) throw cause
    throw new HypemanError(
      'guest_unreachable',
      `the guest agent of ${entry.record.name} did not answer within ${PROOF_TIMEOUT_MS / 1000} s; nothing was changed`,
      { cause },
    )
  }
}
