// Numbers out of runs, and a row of the report out of numbers.

import { readFile } from 'node:fs/promises'
import type { TestServer } from '../tests/support/server.ts'

export interface Bench {
  readonly server: TestServer
  readonly runs: number
  readonly say: (text: string) => void
}

export interface Measurement {
  readonly id: string
  readonly run: (bench: Bench) => Promise<Row[]>
}

export interface Row {
  readonly id: string
  readonly what: string
  readonly target: string
  readonly value: number
  readonly unit: string
  /** The floor or comparison of the same run, in the same unit; absent where there is none. */
  readonly floor?: number
  readonly ratio?: number
  readonly met: boolean
  readonly runs: number
  readonly p90: number
}

/** Milliseconds that it took. */
export async function timed(act: () => Promise<unknown>): Promise<number> {
  const from = performance.now()
  await act()
  return performance.now() - from
}

/** Memory of a process that is in RAM, in MB of 1024². proc(5), `/proc/<pid>/status`. */
export async function residentMb(pid: number): Promise<number> {
  return Number(/VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1]) / 1024
}

export function median(values: readonly number[]): number {
  return quantile(values, 0.5)
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((one, other) => one - other)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

/** A row whose target is a ratio to the floor. */
export function ratioRow(id: string, what: string, target: number, values: readonly number[], floors: readonly number[]): Row {
  const [value, floor] = [median(values), median(floors)]
  const ratio = value / floor
  return {
    id,
    what,
    target: `≤ ${target} × floor`,
    value,
    unit: 'ms',
    floor,
    ratio,
    met: ratio <= target,
    runs: values.length,
    p90: quantile(values, 0.9),
  }
}

/** A row whose target is a number. */
export function limitRow(id: string, what: string, unit: string, limit: number, values: readonly number[]): Row {
  const value = median(values)
  return { id, what, target: `≤ ${limit} ${unit}`, value, unit, met: value <= limit, runs: values.length, p90: quantile(values, 0.9) }
}
