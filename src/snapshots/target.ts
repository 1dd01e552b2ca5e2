// Which state a restore or fork of a snapshot may end in, and on which hypervisor. Pure rules (semantics: "Kinds").

import type { TargetState } from '../api/actions.ts'
import { HypemanError } from '../api/errors.ts'
import type { HypervisorName } from '../hypervisors/driver.ts'
import type { SnapshotRecord } from './record.ts'

const allowedStates = { Standby: ['Running', 'Standby', 'Stopped'], Stopped: ['Stopped', 'Running'] } as const satisfies Record<
  SnapshotRecord['kind'],
  readonly TargetState[]
>

export interface TargetRequest {
  readonly targetState?: TargetState | undefined
  readonly targetHypervisor?: HypervisorName | undefined
}

export interface Target {
  readonly state: TargetState
  readonly hypervisor: HypervisorName
}

/** The target with defaults filled in; `invalid_request` for what the kind does not allow. */
export function targetOf(snapshot: Pick<SnapshotRecord, 'kind' | 'id' | 'instance'>, request: TargetRequest): Target {
  const allowed: readonly TargetState[] = allowedStates[snapshot.kind]
  const state = request.targetState ?? allowed[0] ?? 'Stopped'
  if (!allowed.includes(state))
    throw new HypemanError('invalid_request', `target_state: a ${snapshot.kind} snapshot can become ${allowed.join(', ')}, not ${state}`)
  const { targetHypervisor } = request
  if (targetHypervisor !== undefined && snapshot.kind === 'Standby')
    throw new HypemanError(
      'invalid_request',
      `target_hypervisor: the memory in a Standby snapshot runs on ${snapshot.instance.hypervisor} only; take a Stopped snapshot to change the hypervisor`,
    )
  return { state, hypervisor: targetHypervisor ?? snapshot.instance.hypervisor }
}
