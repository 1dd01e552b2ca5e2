// What the host has and to whom it is promised: who wants more takes it here first, so that of those who come together nobody gets what only one can have.
// Nothing is remembered of what is there: whoever keeps things tells what they hold each time, and a reservation lasts only until its thing is there or has failed.

import { HypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'

/** Virtual processors, and bytes of memory and disk. */
export interface Amounts {
  readonly cpu: number
  readonly memory: number
  readonly disk: number
}

export type Resource = keyof Amounts

export const resources = ['cpu', 'memory', 'disk'] as const satisfies readonly Resource[]

export const nothingHeld: Amounts = { cpu: 0, memory: 0, disk: 0 }

/** What one thing holds, or is about to. */
export interface Holding extends Amounts {
  readonly kind: 'instance' | 'volume' | 'image' | 'cache'
  /** Unique among its kind. */
  readonly id: string
  readonly name: string
}

/** How much of a resource there is, and how often it may be promised. */
export interface Supply {
  readonly capacity: number
  readonly ratio: number
  readonly source: 'detected' | 'configured'
}

export type Supplies = Readonly<Record<Resource, Supply>>

/** Whoever keeps things: tells each of them, with what it holds at this moment. */
export type Keeper = () => Iterable<Holding>

export class Capacity {
  readonly #supplies: () => Supplies
  readonly #keepers: Keeper[] = []
  readonly #reserved = new Set<Holding>()

  /** `supplies` is asked each time: a file system may have grown. */
  constructor(supplies: () => Supplies) {
    this.#supplies = supplies
  }

  /** From now on what it keeps counts. */
  count(keeper: Keeper): void {
    this.#keepers.push(keeper)
  }

  supplies(): Supplies {
    return this.#supplies()
  }

  /** Everything that holds something, each thing once: with what it has, or with what is reserved for it where that is more. */
  holdings(): readonly Holding[] {
    const found = new Map<string, Holding>()
    const add = (holding: Holding): void => {
      const key = `${holding.kind} ${holding.id}`
      const known = found.get(key)
      found.set(key, known === undefined ? holding : { ...known, ...most(known, holding) })
    }
    for (const keeper of this.#keepers) for (const holding of keeper()) add(holding)
    for (const holding of this.#reserved) add(holding)
    return [...found.values()]
  }

  /**
   * Takes what a thing is about to hold, beside what it holds already; `insufficient_resources` if the others leave less than that. What is not more than it has is never refused.
   * Disposed of when the thing is there and its keeper tells of it, or when it failed.
   */
  reserve(wanted: Holding): Disposable {
    const holdings = this.holdings()
    const own = holdings.find(({ kind, id }) => kind === wanted.kind && id === wanted.id) ?? nothingHeld
    const supplies = this.#supplies()
    const short = resources.flatMap((resource) => {
      const more = wanted[resource] - own[resource]
      const left = limitOf(supplies[resource]) - sumOf(holdings, resource)
      return more > 0 && more > left ? [{ resource, more, left: Math.max(0, left) }] : []
    })
    if (short.length > 0)
      throw new HypemanError(
        'insufficient_resources',
        `the ${wanted.kind} ${wanted.name} needs ${short.map(({ resource, more, left }) => shortage(resource, supplies[resource], more, left)).join(' and ')}; stop or delete what is not needed, ask for less, or raise ${short.map(({ resource }) => `oversubscription.${resource}`).join(' and ')}`,
      )
    // An object of its own: equal reservations are taken and given back one by one.
    const reservation = { ...wanted }
    this.#reserved.add(reservation)
    return { [Symbol.dispose]: () => void this.#reserved.delete(reservation) }
  }
}

/** How much may be promised. */
export function limitOf({ capacity, ratio }: Pick<Supply, 'capacity' | 'ratio'>): number {
  return Math.floor(capacity * ratio)
}

export function sumOf(holdings: Iterable<Amounts>, resource: Resource): number {
  let sum = 0
  for (const holding of holdings) sum += holding[resource]
  return sum
}

function most(one: Amounts, other: Amounts): Amounts {
  return { cpu: Math.max(one.cpu, other.cpu), memory: Math.max(one.memory, other.memory), disk: Math.max(one.disk, other.disk) }
}

/** `4 more vCPUs (left: 1 of 8 = 2 × 4)`: the limit is what there is, times how often it may be promised. */
function shortage(resource: Resource, supply: Supply, more: number, left: number): string {
  const words = (amount: number): string => (resource === 'cpu' ? String(amount) : formatSize(amount))
  const what = resource === 'cpu' ? `vCPU${more === 1 ? '' : 's'}` : resource
  return `${words(more)} more ${what} (left: ${words(left)} of ${words(limitOf(supply))} = ${supply.ratio} × ${words(supply.capacity)})`
}
