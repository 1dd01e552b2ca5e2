// What a server has been told to keep, as its users know it: what was promised before a loss of power, and what is found after it.

import assert from 'node:assert/strict'

/** An instance after a loss of power: its VMM is gone, so it has stopped, or it is in standby. */
export interface Instance {
  readonly id: string
  readonly state: 'Stopped' | 'Standby'
  /** What comes back when it is restored; empty if it starts cold. */
  readonly memory: string
  readonly disk: string
  readonly expiresAt: string | null
  /** Ids of the volumes that are attached, in their order. */
  readonly volumes: string
}

export interface Snapshot {
  readonly id: string
  readonly kind: 'Standby' | 'Stopped'
  readonly source: string
  readonly memory: string
  readonly disk: string
}

/** By name. */
type Named<T> = Readonly<Record<string, T>>

export interface World {
  readonly instances: Named<Instance>
  readonly snapshots: Named<Snapshot>
  /** The content of each volume's file `word`; empty for an empty volume. */
  readonly volumes: Named<{ readonly id: string; readonly word: string }>
  /** Digests of the root file systems' bytes. */
  readonly images: Named<string>
  /** Digests of what the registry has under a tag. */
  readonly pushed: Named<string>
  /** The key of the API's tokens. */
  readonly secret: string
}

export const emptyWorld: World = { instances: {}, snapshots: {}, volumes: {}, images: {}, pushed: {}, secret: '' }

/** A world where an entry of one kind is another, or gone. */
export function change<K extends Exclude<keyof World, 'secret'>>(
  world: World,
  kind: K,
  name: string,
  value: World[K][string] | undefined,
): World {
  const others = Object.entries(world[kind]).filter(([other]) => other !== name)
  return { ...world, [kind]: Object.fromEntries([...others, ...(value === undefined ? [] : [[name, value] as const])]) }
}

/** A world where an instance's facts have changed. */
export function changeInstance(world: World, name: string, facts: Partial<Instance>): World {
  const instance = world.instances[name]
  assert.ok(instance, `there is no instance ${name}`)
  return change(world, 'instances', name, { ...instance, ...facts })
}

/** The volumes of an instance, as a fact. */
export function volumesOf({ volumes = [] }: { readonly volumes?: readonly { readonly volume_id: string }[] | undefined }): string {
  return volumes.map((volume) => volume.volume_id).join(', ')
}

/** How what was found differs from each of the worlds that may be; undefined if it is one of them. */
export function differences(found: World, allowed: readonly World[]): string | undefined {
  const each = allowed.map((world) => {
    // Before a server has first answered, nobody knows the key.
    const facts = factsOf(world.secret === '' ? { ...found, secret: '' } : found)
    const expected = factsOf(world)
    const names = new Set([...expected.keys(), ...facts.keys()])
    return [...names]
      .filter((name) => facts.get(name) !== expected.get(name))
      .map((name) => `${name} is ${facts.get(name)}, not ${expected.get(name)}`)
  })
  return each.some((one) => one.length === 0) ? undefined : each.map((one) => one.join('; ')).join('\n  nor: ')
}

/** Every fact of a world under its path. */
function factsOf(world: object, above = ''): Map<string, string> {
  return new Map(
    Object.entries(world).flatMap(([name, value]: [string, unknown]) =>
      typeof value === 'object' && value !== null
        ? [...factsOf(value, `${above}${name}/`)]
        : [[`${above}${name}`, JSON.stringify(value)] as const],
    ),
  )
}
