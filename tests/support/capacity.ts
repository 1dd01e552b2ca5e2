// What a test's host has.

import { Capacity, type Amounts } from '../../src/platform/capacity.ts'

/** A host of which just that may be promised. */
export function hostOf({ cpu, memory, disk }: Amounts): Capacity {
  const supply = (capacity: number) => ({ capacity, ratio: 1, source: 'configured' }) as const
  return new Capacity(() => ({ cpu: supply(cpu), memory: supply(memory), disk: supply(disk) }))
}

/** More than any test asks for. */
export function roomForAll(): Capacity {
  return hostOf({ cpu: 2 ** 20, memory: 2 ** 50, disk: 2 ** 50 })
}
