// What a history tells before anything of it is judged: which instances and snapshots were made, of what, and what they began with.

import { describe, overlap, type Call, type Content, type Identity, type Target, type VolumeUse } from './history.ts'

export interface KnownInstance {
  readonly name: string
  readonly made: Call
  /** The state that it was made to reach; a created one boots. */
  readonly state: string
  readonly volumes: readonly VolumeUse[]
  readonly removed: Call | undefined
}

export interface KnownSnapshot {
  readonly name: string
  readonly kind: 'Standby' | 'Stopped'
  readonly source: string
  readonly volumes: readonly VolumeUse[]
  readonly made: Call
  readonly removed: Call | undefined
}

/** An event with the call that it comes from. */
export type Told<Event> = Event & { readonly call: Call }

export interface Survey {
  readonly history: readonly Call[]
  readonly instances: ReadonlyMap<string, KnownInstance>
  readonly snapshots: ReadonlyMap<string, KnownSnapshot>
  /** Calls that name an instance, by its id. */
  readonly callsOn: ReadonlyMap<string, readonly Call[]>
  /** What a snapshot holds, as its forks have shown, or what nobody knows. */
  readonly contentOf: (snapshot: string) => Content
  /** What a fork began with. */
  readonly beginningOf: (instance: string) => Content
  /** True while another call makes, or tries to make, an instance of that name. */
  readonly making: (call: Call, name: string) => boolean
  /** Two looks at one thing that can't both be true. */
  readonly contradictions: readonly string[]
}

export function surveyOf(history: readonly Call[]): Survey {
  const contradictions: string[] = []
  const removals = removalsIn(history)
  const snapshots = new Map<string, KnownSnapshot>()
  const instances = new Map<string, KnownInstance>()
  const volumesOf = ({ operation }: Call): readonly VolumeUse[] => {
    if (operation.kind === 'create') return operation.volumes
    if (operation.kind === 'fork') return instances.get(operation.instance)?.volumes ?? []
    return operation.kind === 'forkSnapshot' ? (snapshots.get(operation.snapshot)?.volumes ?? []) : []
  }
  // What something was made of was answered for before it was used.
  for (const call of history.toSorted((one, other) => one.answered - other.answered)) {
    if (call.answer.outcome !== 'done') continue
    const { operation } = call
    const { instance, snapshot } = call.answer.said
    if (isMaking(call) && instance !== undefined)
      instances.set(instance.id, {
        name: instance.name,
        made: call,
        state: instance.state,
        volumes: volumesOf(call),
        removed: removals.get(instance.id),
      })
    if (operation.kind === 'snapshot' && snapshot !== undefined)
      snapshots.set(snapshot.id, {
        name: operation.name,
        kind: operation.of,
        source: operation.instance,
        volumes: instances.get(operation.instance)?.volumes ?? [],
        made: call,
        removed: removals.get(snapshot.id),
      })
  }
  const beginnings = beginningsIn(history)
  const contents = contentsOf(instances, beginnings, contradictions)
  contradictions.push(...sharedIdentities(history))
  const makings = history.filter((call) => ['create', 'fork', 'forkSnapshot'].includes(call.operation.kind))
  return {
    history,
    instances,
    snapshots,
    callsOn: Map.groupBy(
      history.filter(({ operation }) => 'instance' in operation),
      ({ operation }) => ('instance' in operation ? operation.instance : ''),
    ),
    contentOf: (snapshot) => contents.get(snapshot) ?? { memory: `?${snapshot}`, disk: `?${snapshot}` },
    beginningOf: (instance) => beginnings.get(instance) ?? { memory: `?${instance}`, disk: `?${instance}` },
    making: (call, name) =>
      makings.some((one) => one !== call && 'name' in one.operation && one.operation.name === name && overlap(one, call)),
    contradictions,
  }
}

export function isMaking({ operation }: Call): boolean {
  return operation.kind === 'create' || operation.kind === 'fork' || operation.kind === 'forkSnapshot'
}

/** What a restore or fork becomes by default. */
export function targetOf(snapshot: Pick<KnownSnapshot, 'kind'>, asked: Target | undefined): Target {
  return asked ?? (snapshot.kind === 'Standby' ? 'Running' : 'Stopped')
}

/** Successful removals of instances and snapshots, by id. */
function removalsIn(history: readonly Call[]): ReadonlyMap<string, Call> {
  return new Map(
    history.flatMap((call): (readonly [string, Call])[] => {
      const { operation, answer } = call
      if (answer.outcome !== 'done') return []
      if (operation.kind === 'remove') return [[operation.instance, call]]
      return operation.kind === 'removeSnapshot' ? [[operation.snapshot, call]] : []
    }),
  )
}

function beginningsIn(history: readonly Call[]): ReadonlyMap<string, Content> {
  return new Map(
    history.flatMap(({ first, operation, answer }) =>
      first === true && operation.kind === 'read' && answer.outcome === 'done' && answer.said.content !== undefined
        ? [[operation.instance, { memory: answer.said.content.memory, disk: answer.said.content.disk }] as const]
        : [],
    ),
  )
}

/** By snapshot; all forks of one must have begun alike. */
function contentsOf(
  instances: ReadonlyMap<string, KnownInstance>,
  beginnings: ReadonlyMap<string, Content>,
  contradictions: string[],
): ReadonlyMap<string, Content> {
  const contents = new Map<string, Content>()
  for (const [id, { made }] of instances) {
    const beginning = beginnings.get(id)
    if (made.operation.kind !== 'forkSnapshot' || beginning === undefined) continue
    const { snapshot } = made.operation
    const known = contents.get(snapshot)
    if (known !== undefined && (known.memory !== beginning.memory || known.disk !== beginning.disk))
      contradictions.push(
        `forks of the snapshot ${snapshot} begin differently: ${JSON.stringify(known)}, and ${JSON.stringify(beginning)} in ${describe(made)}`,
      )
    contents.set(snapshot, beginning)
  }
  return contents
}

/** No two instances may show the same random bytes, machine id or address, and none a name that is another's. */
function sharedIdentities(history: readonly Call[]): string[] {
  const owners = new Map<string, string>()
  return history.flatMap((call) => {
    const { operation, answer } = call
    if (operation.kind !== 'read' || answer.outcome !== 'done') return []
    const identity: Identity | undefined = answer.said.content?.identity
    if (identity === undefined) return []
    const shared = [identity.random, identity.machineId, identity.mac].filter((mark) => {
      const owner = owners.get(mark) ?? operation.instance
      owners.set(mark, owner)
      return owner !== operation.instance
    })
    if (identity.instance !== operation.instance) return [`a guest takes itself for ${identity.instance}: ${describe(call)}`]
    return shared.map((mark) => `${mark} is shown by two instances, ${owners.get(mark) ?? ''} and this: ${describe(call)}`)
  })
}
