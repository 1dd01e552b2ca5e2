// Which action is legal in which instance state, as one table: the server enforces it, clients disable by it and say why.
// Not how an action is done (instances/) nor how a state is found (instances/state.ts).

export const instanceStates = ['Created', 'Initializing', 'Running', 'Paused', 'Shutdown', 'Stopped', 'Standby', 'Unknown'] as const

export type InstanceState = (typeof instanceStates)[number]

/** Where a restore or fork may end. */
export const targetStates = ['Stopped', 'Standby', 'Running'] as const

export type TargetState = (typeof targetStates)[number]

interface ActionRow {
  /** What was asked for, for a message: "Only a Running instance can … ". */
  readonly can: string
  readonly states: readonly InstanceState[]
}

export const instanceActions = {
  start: { can: 'be started', states: ['Stopped'] },
  stop: { can: 'be stopped', states: ['Created', 'Initializing', 'Running', 'Paused', 'Shutdown', 'Standby', 'Unknown'] },
  /** Paused is what could not be made to run again after a standby or snapshot that failed. */
  standby: { can: 'go to standby', states: ['Running', 'Paused'] },
  restore: { can: 'be restored from its own memory', states: ['Standby'] },
  /** From `Running` only with `from_running`. */
  fork: { can: 'be forked', states: ['Running', 'Stopped', 'Standby'] },
  snapshotStandby: { can: 'be snapshotted with its memory', states: ['Running', 'Standby'] },
  snapshotStopped: { can: 'be snapshotted without memory', states: ['Stopped'] },
  restoreSnapshot: { can: 'be restored to a snapshot', states: ['Stopped', 'Standby'] },
  exec: { can: 'run commands', states: ['Running'] },
  copy: { can: 'copy files', states: ['Running'] },
  stat: { can: 'be asked for its files', states: ['Running'] },
  delete: { can: 'be deleted', states: instanceStates },
  /** A volume is a device of the machine, and devices are part of its memory image: none comes or goes while there is either. */
  attachVolume: { can: 'have a volume attached (stop it first)', states: ['Stopped'] },
  detachVolume: { can: 'have a volume detached (stop it first)', states: ['Stopped'] },
  /** A Running one can only have more, where its hypervisor can give it that; what is in memory on disk is of one size. */
  resize: { can: 'be given another size', states: ['Running', 'Stopped'] },
  update: { can: 'be updated', states: instanceStates },
  logs: { can: 'be asked for its logs', states: instanceStates },
} as const satisfies Record<string, ActionRow>

export type InstanceAction = keyof typeof instanceActions

/** The states in which an action is legal. */
export type StateFor<Action extends InstanceAction> = (typeof instanceActions)[Action]['states'][number]

export function isLegal<Action extends InstanceAction>(action: Action, state: InstanceState): state is StateFor<Action> {
  const { states }: ActionRow = instanceActions[action]
  return states.includes(state)
}

/** Why the action is not legal in the state, as a sentence without its full stop; undefined when it is legal. */
export function whyIllegal(action: InstanceAction, state: InstanceState): string | undefined {
  const { can, states }: ActionRow = instanceActions[action]
  if (states.includes(state)) return undefined
  return `only a ${states.join(' or ')} instance can ${can}, and this one is ${state}`
}
