// How memory that is to be taken back from running guests is spread over them. Pure: who can be asked, and how, is reclaim.ts.

/** The unit in which balloons are filled, in bytes. */
const MIB = 1024 ** 2
/** A guest keeps this part of what it was given, */
const FLOOR_PART = 0.5
/** and this much at least, in bytes: less is no use to a program. */
const LEAST_FLOOR = 128 * MIB

/** What a guest keeps in any case, in bytes. */
export function floorOf(assignedBytes: number): number {
  return Math.min(assignedBytes, Math.max(Math.ceil(assignedBytes * FLOOR_PART), LEAST_FLOOR))
}

/**
 * What each guest gives back, in bytes, in the order of what they were given: in all what is asked for, rounded down to whole MiB, or all that is above their floors where
 * that is less. Each gives in proportion to what it has above its floor, to the MiB; what the rounding leaves is taken one MiB each from those whose share was cut most.
 */
export function planReclaim(assigned: readonly number[], bytes: number): readonly number[] {
  const spare = assigned.map((one) => Math.floor((one - floorOf(one)) / MIB))
  const total = spare.reduce((sum, one) => sum + one, 0)
  const wanted = Math.min(Math.floor(bytes / MIB), total)
  if (wanted === 0) return assigned.map(() => 0)
  const shares = spare.map((one) => (one * wanted) / total)
  const given = shares.map(Math.floor)
  const left = wanted - given.reduce((sum, one) => sum + one, 0)
  const byCut = shares.map((share, at) => ({ at, cut: share - Math.floor(share) })).toSorted((one, other) => other.cut - one.cut)
  for (const { at } of byCut.slice(0, left)) given[at] = (given[at] ?? 0) + 1
  return given.map((one) => one * MIB)
}
