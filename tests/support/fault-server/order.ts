// What a test orders of a fault server, and what that reports: two files in a directory that both know. An order is read again at every step and
// call, so that it holds from the next one on; a report is there before anything else happens.

import fs from 'node:fs'
import path from 'node:path'

/**
 * `vmm` ends every VMM of the server but the spared ones; `hold` lets the step wait until there is another order; `abort` makes the filesystem of the data directory read-only, as the kernel does
 * after an error.
 */
export type What = 'throw' | 'kill' | 'enospc' | 'eio' | 'vmm' | 'hold' | 'abort'

export interface Order {
  readonly id: number
  /** At the start or end of a step; at the n-th call, from 1, that the fault could come from; nowhere, so that it is only reported what there is. */
  readonly at: { readonly step: string; readonly when: 'before' | 'after' } | { readonly call: number } | 'nowhere'
  readonly what: What
  /** From there on until another order, instead of once. */
  readonly lasting: boolean
  readonly spared: readonly number[]
}

export interface Report {
  readonly order: number
  readonly kind: 'step' | 'passed' | 'call' | 'struck'
  /** `flow/step`, at its start (`step`) or its end (`passed`), or the call with its path. */
  readonly what: string
  /** Of a step: file and line of the source that names it. */
  readonly site?: string
}

const orderFile = 'order.json'
const reportFile = 'report.jsonl'
const nothing: Order = { id: 0, at: 'nowhere', what: 'throw', lasting: false, spared: [] }

/** By a rename, so that nobody reads half of one. */
export function giveOrder(directory: string, order: Order): void {
  fs.writeFileSync(path.join(directory, `${orderFile}.new`), JSON.stringify(order))
  fs.renameSync(path.join(directory, `${orderFile}.new`), path.join(directory, orderFile))
}

export function readOrder(directory: string): Order {
  try {
    return JSON.parse(fs.readFileSync(path.join(directory, orderFile), 'utf8')) as Order
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return nothing
    throw error
  }
}

export function report(directory: string, line: Report): void {
  fs.appendFileSync(path.join(directory, reportFile), `${JSON.stringify(line)}\n`)
}

export function readReports(directory: string, order: number): readonly Report[] {
  const file = path.join(directory, reportFile)
  if (!fs.existsSync(file)) return []
  return fs
    .readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Report)
    .filter((line) => line.order === order)
}

/** Forgets the reports of earlier orders. */
export function clearReports(directory: string): void {
  fs.rmSync(path.join(directory, reportFile), { force: true })
}
