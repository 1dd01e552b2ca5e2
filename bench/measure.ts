// Numbers out of runs, and a row of the report out of numbers.

import { readFile } from 'node:fs/promises'
import type { TestServer } from '../tests/support/server.ts'

export interface Bench {
  readonly server: TestServer
  /** Runs of each side that take turns. */
  readonly runs: number
  /** Runs of what takes minutes. */
  readonly longRuns: number
  /** How long an idle server is watched, in seconds. */
  readonly idleSeconds: number
  /** True for a row that was asked for; a measurement of several rows may leave out the others. */
  readonly wants: (id: string) => boolean
  /** Tells how far it is. Throws when the run was interrupted: what was started is ended on the way out. */
  readonly say: (text: string) => void
  /** Notes for the report why a row, or a part of it, is missing. */
  readonly leaveOut: (id: string, reason: string) => void
}

export interface Measurement {
  /** Of the rows that it makes. */
  readonly ids: readonly string[]
  readonly run: (bench: Bench) => Promise<Row[]>
}

export interface Row {
  readonly id: string
  readonly what: string
  readonly target: string
  /** Median of the runs. */
  readonly value: number
  readonly unit: string
  /** The floor or comparison of the same run, in the same unit; absent where there is none. */
  readonly floor?: number
  /** `value` in floors. */
  readonly ratio?: number
  /** `value` in targets: up to 1 is good. Absent where there is no target. */
  readonly ofTarget?: number
  /** Null where there is no target. */
  readonly met: boolean | null
  readonly runs: number
  /** Nine of ten runs were at least as good. */
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

/** The value below which that share of the values is. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((one, other) => one - other)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

/** A row whose target is a ratio to the floor. */
export function ratioRow(
  id: string,
  what: string,
  target: number,
  values: readonly number[],
  floors: readonly number[],
  words = `≤ ${target} × floor`,
): Row {
  const row = against(toldRow(id, what, 'ms', values), floors)
  return judged(row, words, (row.ratio ?? Number.NaN) / target)
}

/** A row whose target is a number. */
export function limitRow(
  id: string,
  what: string,
  unit: string,
  limit: number,
  values: readonly number[],
  words = `≤ ${limit} ${unit}`,
): Row {
  const row = toldRow(id, what, unit, values)
  return judged(row, words, row.value / limit)
}

/** A row of which each run has a target of its own. */
export function limitsRow(
  id: string,
  what: string,
  unit: string,
  limits: readonly number[],
  values: readonly number[],
  words: string,
): Row {
  return judged(toldRow(id, what, unit, values), words, median(values.map((value, run) => value / (limits[run] ?? Number.NaN))))
}

/** A row of which more is better. */
export function rateRow(id: string, what: string, unit: string, least: number, values: readonly number[]): Row {
  const row = toldRateRow(id, what, unit, values)
  return judged(row, `≥ ${least} ${unit}`, least / row.value)
}

/** The same without a target. */
export function toldRateRow(id: string, what: string, unit: string, values: readonly number[]): Row {
  return { ...toldRow(id, what, unit, values), p90: quantile(values, 0.1) }
}

/** A row without a target. */
export function toldRow(id: string, what: string, unit: string, values: readonly number[]): Row {
  return { id, what, target: '-', value: median(values), unit, met: null, runs: values.length, p90: quantile(values, 0.9) }
}

/** The row beside a floor that its target does not depend on. */
export function against(row: Row, floors: readonly number[]): Row {
  const floor = median(floors)
  return { ...row, floor, ratio: row.value / floor }
}

export function judged(row: Row, target: string, ofTarget: number): Row {
  return { ...row, target, ofTarget, met: ofTarget <= 1 }
}
