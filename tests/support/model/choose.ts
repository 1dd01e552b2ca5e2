// Chooses what a client asks next: mostly what makes sense for what it believes to be there, now and then what does not, with a few things that
// everybody wants at once.

import type { Operation, Target, VolumeUse } from './history.ts'
import type { Random } from './random.ts'

/** What the clients believe, from the answers so far; others may have changed it since. */
export interface Beliefs {
  /** Oldest first. */
  readonly instances: readonly BelievedInstance[]
  readonly snapshots: readonly { readonly id: string; readonly kind: 'Standby' | 'Stopped'; readonly source: string }[]
  /** Ids of what was removed last. */
  readonly gone: { readonly instances: readonly string[]; readonly snapshots: readonly string[] }
}

export interface BelievedInstance {
  readonly id: string
  readonly state: string
}

export interface Limits {
  /** More than this are not made. */
  readonly instances: number
  readonly snapshots: number
  /** Fewer names than wanted make clients meet. */
  readonly names: number
  readonly volumes: readonly string[]
  /** Disks of a running guest may be copied without its memory: what was just written must be on them then. */
  readonly diskAlone: boolean
}

/** How often something is asked of what is believed not to allow it, or to be gone. */
const ABSURD = 0.12

export function chooseOperation(random: Random, beliefs: Beliefs, limits: Limits, text: string): Operation {
  const instance = chooseInstance(random, beliefs)
  const snapshot = random.chance(0.05) ? random.oneOf(beliefs.gone.snapshots) : random.oneOf(beliefs.snapshots)?.id
  const room = beliefs.instances.length < limits.instances
  const choices: [number, (() => Operation) | undefined][] = [
    [room ? 6 : 0.3, () => ({ kind: 'create', name: instanceName(random, limits), volumes: chooseVolumes(random, limits) })],
    [3, () => ({ kind: 'list' })],
    [1.5, () => ({ kind: 'listSnapshots' })],
    [limits.volumes.length > 0 ? 1 : 0, () => ({ kind: 'listVolumes' })],
    [
      limits.volumes.length > 0 ? 1 : 0,
      () => ({ kind: random.chance(0.6) ? 'createVolume' : 'removeVolume', volume: random.oneOf(limits.volumes) ?? '' }),
    ],
  ]
  if (instance !== undefined) choices.push(...onInstance(random, instance, snapshot, beliefs, limits, text, room))
  if (snapshot !== undefined) choices.push(...onSnapshot(random, snapshot, beliefs, limits, room))
  return random.weighted(choices)?.() ?? { kind: 'list' }
}

function chooseInstance(random: Random, { instances, gone }: Beliefs): BelievedInstance | undefined {
  if (random.chance(0.04)) {
    const id = random.oneOf(gone.instances)
    if (id !== undefined) return { id, state: 'gone' }
  }
  // Half of all requests meet at the two oldest.
  return random.oneOf(random.chance(0.5) ? instances.slice(0, 2) : instances)
}

function onInstance(
  random: Random,
  { id: instance, state }: BelievedInstance,
  snapshot: string | undefined,
  { snapshots }: Beliefs,
  limits: Limits,
  text: string,
  room: boolean,
): [number, () => Operation][] {
  const runs = state === 'Running' || state === 'Initializing'
  const rests = state === 'Stopped' || state === 'Standby'
  const often = (weight: number, sensible: boolean): number => (sensible ? weight : weight * ABSURD)
  const own = random.oneOf(snapshots.filter(({ source }) => source === instance))?.id
  const chosen = random.chance(0.95) ? own : snapshot
  return [
    [often(10, runs), () => ({ kind: 'read', instance })],
    [often(12, runs), () => ({ kind: 'write', instance, to: random.chance(0.6) ? 'memory' : 'disk', text })],
    [5, () => ({ kind: 'get', instance })],
    [1, () => ({ kind: 'update', instance })],
    [often(12, state === 'Stopped'), () => ({ kind: 'start', instance })],
    [often(4, runs || state === 'Standby'), () => ({ kind: 'stop', instance })],
    [often(6, runs), () => ({ kind: 'standby', instance })],
    [often(12, state === 'Standby'), () => ({ kind: 'restore', instance })],
    [room ? 2 : 4, () => ({ kind: 'remove', instance })],
    [
      room ? 6 : 0.3,
      () => ({
        kind: 'fork',
        instance,
        name: instanceName(random, limits),
        fromRunning: random.chance(0.8),
        target: forkTarget(random, state, limits),
      }),
    ],
    [
      snapshots.length < limits.snapshots ? 6 : 0.3,
      () => ({ kind: 'snapshot', instance, of: sensibleKind(random, state), name: random.oneOf(['', 'one', 'two', 'three']) ?? '' }),
    ],
    ...(chosen === undefined
      ? []
      : [
          [often(14, rests), () => ({ kind: 'restoreSnapshot', instance, snapshot: chosen, target: chooseTarget(random, limits) })] as [
            number,
            () => Operation,
          ],
        ]),
  ]
}

function onSnapshot(random: Random, snapshot: string, { snapshots }: Beliefs, limits: Limits, room: boolean): [number, () => Operation][] {
  return [
    [room ? 9 : 0.3, () => ({ kind: 'forkSnapshot', snapshot, name: instanceName(random, limits), target: chooseTarget(random, limits) })],
    [1.5, () => ({ kind: 'getSnapshot', snapshot })],
    [snapshots.length < limits.snapshots ? 2 : 5, () => ({ kind: 'removeSnapshot', snapshot })],
  ]
}

function instanceName(random: Random, { names }: Limits): string {
  return `vm-${random.whole(names)}`
}

function sensibleKind(random: Random, state: string): 'Standby' | 'Stopped' {
  const sensible = state === 'Stopped' ? 'Stopped' : 'Standby'
  const other = sensible === 'Stopped' ? 'Standby' : 'Stopped'
  return random.chance(ABSURD) ? other : sensible
}

/** None: the default. */
function chooseTarget(random: Random, { diskAlone }: Limits): Target | undefined {
  return random.oneOf([undefined, undefined, 'Running', 'Standby', ...(diskAlone ? (['Stopped'] as const) : [])])
}

function forkTarget(random: Random, state: string, limits: Limits): Target | undefined {
  return state === 'Stopped' ? random.oneOf([undefined, 'Stopped', 'Running', 'Standby']) : chooseTarget(random, limits)
}

function chooseVolumes(random: Random, { volumes }: Limits): VolumeUse[] {
  const volume = random.chance(0.3) ? random.oneOf(volumes) : undefined
  return volume === undefined ? [] : [{ volume, readOnly: random.chance(0.75) }]
}
