// Results on standard output in the form that was asked for: for people (auto, table) or for programs (json, jsonl, yaml, raw).

import { tableLines, type Column } from './table.ts'
import { write, type Output } from '../terminal.ts'

export const formats = ['auto', 'table', 'json', 'jsonl', 'yaml', 'raw', 'pretty'] as const
export type Format = (typeof formats)[number]

export interface Printer {
  readonly stdout: Output
  readonly format: Format
  readonly color: boolean
  /** The last answer of the server as it came. */
  raw(): string
  /** Called before anything is printed: what is shown meanwhile makes room. */
  makeRoom(): void
}

/** A list: for people a table. */
export async function printList<Item>(printer: Printer, items: readonly Item[], columns: readonly Column<Item>[]): Promise<void> {
  if (printer.format === 'auto' || printer.format === 'table') {
    const lines = tableLines(columns, items, {
      width: printer.stdout.isTTY === true ? printer.stdout.columns : undefined,
      color: printer.color,
    })
    return await printLines(printer, lines)
  }
  if (printer.format === 'jsonl')
    return await printLines(
      printer,
      items.map((item) => JSON.stringify(item)),
    )
  await printValue(printer, items)
}

/** One thing: for people the given line, if there is one that says enough, else all of it. */
export async function printObject(printer: Printer, value: object, line?: string): Promise<void> {
  if (printer.format === 'auto' && line !== undefined) return await printLines(printer, [line])
  if (printer.format === 'table') return await printLines(printer, propertyLines(printer, value))
  await printValue(printer, value)
}

export async function printLines(printer: Printer, lines: readonly string[]): Promise<void> {
  printer.makeRoom()
  if (lines.length > 0) await write(printer.stdout, `${lines.join('\n')}\n`)
}

async function printValue(printer: Printer, value: unknown): Promise<void> {
  printer.makeRoom()
  switch (printer.format) {
    case 'auto':
    case 'table':
    case 'json':
    case 'pretty':
      return await write(printer.stdout, `${JSON.stringify(value, null, 2)}\n`)
    case 'jsonl':
      return await write(printer.stdout, `${JSON.stringify(value)}\n`)
    case 'raw': {
      const raw = printer.raw()
      return await write(printer.stdout, raw.endsWith('\n') ? raw : `${raw}\n`)
    }
    case 'yaml': {
      const { stringify } = await import('yaml')
      return await write(printer.stdout, stringify(value))
    }
    default:
      printer.format satisfies never
  }
}

function propertyLines(printer: Printer, value: object): string[] {
  const properties: Column<[string, unknown]>[] = [
    { title: 'FIELD', value: ([name]) => name },
    { title: 'VALUE', value: ([, property]) => (typeof property === 'string' ? property : (JSON.stringify(property) ?? '-')), cut: true },
  ]
  return tableLines(properties, Object.entries(value), { width: printer.stdout.isTTY === true ? printer.stdout.columns : undefined })
}
