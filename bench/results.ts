// bench/results/latest.json: the last numbers of each row, each with the machine, commit and date that it is from.

import { z } from 'zod'
import type { Row } from './measure.ts'
import { byId } from './picks.ts'

const result = z.object({
  id: z.string(),
  what: z.string(),
  target: z.string(),
  value: z.number(),
  unit: z.string(),
  floor: z.number().exactOptional(),
  ratio: z.number().exactOptional(),
  ofTarget: z.number().exactOptional(),
  met: z.boolean().nullable(),
  runs: z.int(),
  p90: z.number(),
  machine: z.string(),
  commit: z.string(),
  date: z.iso.datetime(),
})

export type Result = Row & Pick<z.infer<typeof result>, 'machine' | 'commit' | 'date'>

export function parseResults(text: string): Result[] {
  return z.array(result).parse(JSON.parse(text))
}

/** What was measured now replaces what there was of the same ids; the others stay, unless nothing measures them any more. */
export function mergeResults(before: readonly Result[], now: readonly Result[], known: readonly string[]): Result[] {
  const measured = new Set(now.map(({ id }) => id))
  const kept = before.filter(({ id }) => known.includes(id) && !measured.has(id))
  return [...kept, ...now].toSorted((one, other) => byId(one.id, other.id))
}

export function printResults(results: readonly Result[]): string {
  return `${JSON.stringify(results, null, 2)}\n`
}
