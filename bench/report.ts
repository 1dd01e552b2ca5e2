// The printed report: the machine, a table of rows, and what is not in it.

import { tableLines, type Column } from '../src/cli/output/table.ts'
import type { Row } from './measure.ts'
import { byId } from './picks.ts'

/** Something that has no row, and why. */
export interface Missing {
  readonly id: string
  readonly reason: string
}

export interface Report {
  readonly machine: string
  readonly rows: readonly Row[]
  readonly missing: readonly Missing[]
}

const columns: readonly Column<Row>[] = [
  { title: 'ID', value: (row) => row.id },
  { title: 'WHAT', value: (row) => row.what },
  { title: 'MEDIAN', value: (row) => quantity(row.value, row.unit), right: true },
  { title: 'P90', value: (row) => quantity(row.p90, row.unit), right: true },
  { title: 'FLOOR', value: (row) => (row.floor === undefined ? '-' : quantity(row.floor, row.unit)), right: true },
  { title: 'RATIO', value: (row) => row.ratio?.toFixed(2) ?? '-', right: true },
  { title: 'TARGET', value: (row) => row.target },
  { title: 'MET', value: (row) => (row.met === null ? '-' : row.met ? 'yes' : 'NO') },
]

export function reportOf({ machine, rows, missing }: Report): string {
  const sorted = rows.toSorted((one, other) => byId(one.id, other.id))
  const reasons = missing.toSorted((one, other) => byId(one.id, other.id)).map(({ id, reason }) => `  ${id.padEnd(8)} ${reason}`)
  return [
    machine,
    ...(rows.length > 0 ? ['', ...tableLines(columns, sorted)] : []),
    ...(missing.length > 0 ? ['', 'Not measured:', ...reasons] : []),
  ].join('\n')
}

export function quantity(value: number, unit: string): string {
  return `${Math.abs(value) < 10 ? value.toFixed(2) : Math.round(value)} ${unit}`
}
