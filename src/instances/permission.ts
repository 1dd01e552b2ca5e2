// Enforces the table of actions and states (api/actions.ts) on what is seen of an instance just now.

import { isLegal, whyIllegal, type InstanceAction, type StateFor } from '../api/actions.ts'
import { HypemanError, type ErrorCode } from '../api/errors.ts'
import type { InstanceEntry } from './entry.ts'

/** Looks at the instance and returns its state, or throws when the action is not legal in it: nothing was changed then. */
export async function permit<Action extends InstanceAction>(
  entry: InstanceEntry,
  action: Action,
  code: ErrorCode = 'invalid_state',
): Promise<StateFor<Action>> {
  const { state } = await entry.observePatiently()
  if (isLegal(action, state)) return state
  throw new HypemanError(code, `${entry.record.name}: ${whyIllegal(action, state) ?? state}`)
}

/** The VMM of an instance that was just seen to have one; it may have ended since. */
export function liveMachine(entry: InstanceEntry): NonNullable<InstanceEntry['machine']> {
  if (entry.machine !== undefined) return entry.machine
  throw new HypemanError(
    'invalid_state',
    `the VMM of ${entry.record.name} has just ended; see hypeman logs --source vmm ${entry.record.name}`,
  )
}
