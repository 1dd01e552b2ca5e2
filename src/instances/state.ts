// Derives an instance's state from what can be seen. Pure; the only place that knows the rules (semantics: "Instance states").

import type { InstanceState } from '../api/actions.ts'
import type { MachineStatus } from '../hypervisors/driver.ts'

/** What was seen of an instance just now. */
export interface Observation {
  /** `gone`: no VMM process. `unanswered`: it lives but could not be asked. */
  readonly vmm: MachineStatus | 'gone' | 'unanswered'
  readonly holdsMemory: boolean
  readonly programStarted: boolean
  readonly agentReady: boolean
  readonly skipGuestAgent: boolean
  /** The guest still has to take its identity after a restore or fork. */
  readonly identityDue: boolean
  /** Its programs were to go on and could not be made to. */
  readonly standsStill: boolean
}

export interface DerivedState {
  readonly state: InstanceState
  /** Only with `Unknown`: why. */
  readonly error?: string
}

export function deriveState(seen: Observation): DerivedState {
  switch (seen.vmm) {
    case 'gone':
      return { state: seen.holdsMemory ? 'Standby' : 'Stopped' }
    case 'unanswered':
      return { state: 'Unknown', error: 'the VMM process lives but does not answer on its control socket' }
    case 'created':
      return { state: 'Created' }
    case 'paused':
      return { state: 'Paused' }
    case 'shutdown':
      return { state: 'Shutdown' }
    case 'running':
      if (seen.standsStill) return { state: 'Paused' }
      return { state: seen.programStarted && !seen.identityDue && (seen.agentReady || seen.skipGuestAgent) ? 'Running' : 'Initializing' }
    default:
      return seen.vmm satisfies never
  }
}
