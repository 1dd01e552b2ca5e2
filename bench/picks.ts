// Which measurements are meant by the ids on the command line, and the order of ids in the report.

import type { Measurement } from './measure.ts'

/** Rows that can't be measured, by id, with the reason. */
export type Absent = Readonly<Record<string, string>>

export interface Picked {
  readonly measurements: readonly Measurement[]
  readonly absent: readonly (readonly [id: string, reason: string])[]
  readonly wants: (id: string) => boolean
  /** Ids that no measurement has. */
  readonly unknown: readonly string[]
}

/** No ids mean all. */
export function pick(asked: readonly string[], all: readonly Measurement[], absent: Absent): Picked {
  const known = knownIds(all, absent)
  const wanted = new Set(asked.length === 0 ? known : asked)
  return {
    measurements: all.filter(({ ids }) => ids.some((id) => wanted.has(id))),
    absent: Object.entries(absent).filter(([id]) => wanted.has(id)),
    wants: (id) => wanted.has(id),
    unknown: asked.filter((id) => !known.includes(id)),
  }
}

export function knownIds(all: readonly Measurement[], absent: Absent): string[] {
  return [...all.flatMap(({ ids }) => ids), ...Object.keys(absent)].toSorted(byId)
}

/** The rows of the specification by number, then the others by name. */
export function byId(one: string, other: string): number {
  return Number(isNumbered(other)) - Number(isNumbered(one)) || one.localeCompare(other, 'en', { numeric: true })
}

function isNumbered(id: string): boolean {
  return /^S\d/.test(id)
}
