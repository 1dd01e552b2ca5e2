// Tables without borders, as docker prints them. On a terminal too narrow for them, the columns that allow it are cut.

import { stripVTControlCharacters } from 'node:util'

export interface Column<Item> {
  readonly title: string
  value(item: Item): string
  /** May be cut on a narrow terminal. */
  readonly cut?: true
  /** Numbers read better at the right. */
  readonly right?: true
  /** Colours the cell of an item; only called for a terminal that wants colours. */
  style?(text: string, item: Item): string
}

export interface TableOptions {
  /** Width of the terminal in characters, if it is one. */
  readonly width?: number | undefined
  readonly color?: boolean
}

const GAP = '   '
/** What is left of a column that is cut, in characters. */
const SHORTEST = 8

/** Lines of a table, the head first. */
export function tableLines<Item>(columns: readonly Column<Item>[], items: readonly Item[], options: TableOptions = {}): string[] {
  const rows = [columns.map((column) => column.title), ...items.map((item) => columns.map((column) => oneLine(column.value(item))))]
  const widths = columns.map((_, index) => Math.max(...rows.map((row) => displayWidth(row[index] ?? ''))))
  if (options.width !== undefined) shrink(columns, widths, options.width)
  return rows.map((row, line) => {
    const item = items[line - 1]
    const cells = columns.map((column, index) => {
      const cell = fit(row[index] ?? '', widths[index] ?? 0, column.right === true)
      return options.color === true && item !== undefined && column.style !== undefined ? column.style(cell, item) : cell
    })
    return cells.join(GAP).trimEnd()
  })
}

function shrink<Item>(columns: readonly Column<Item>[], widths: number[], width: number): void {
  const total = (): number => widths.reduce((sum, one) => sum + one, GAP.length * (widths.length - 1))
  for (;;) {
    const widest = columns.reduce(
      (best, column, index) => (column.cut === true && (widths[index] ?? 0) > (widths[best] ?? 0) ? index : best),
      -1,
    )
    const current = widths[widest] ?? 0
    if (total() <= width || widest < 0 || current <= SHORTEST) return
    widths[widest] = current - 1
  }
}

/** The text cut or padded to a width. */
export function fit(cell: string, width: number, right = false): string {
  const actual = displayWidth(cell)
  if (actual > width) {
    let cut = ''
    for (const segment of segments(cell)) {
      if (displayWidth(cut + segment) > width - 1) break
      cut += segment
    }
    return fit(`${cut}…`, width, right)
  }
  const padding = ' '.repeat(width - actual)
  return right ? padding + cell : cell + padding
}

/** Control characters in a name or message must not move the cursor. */
function oneLine(text: string): string {
  return stripVTControlCharacters(text).replace(/\p{Cc}+/gu, ' ')
}

function* segments(text: string): Generator<string> {
  for (const { segment } of new Intl.Segmenter().segment(text)) yield segment
}

/** Cells that a terminal uses: wide East Asian characters and emoji take two. */
export function displayWidth(text: string): number {
  let width = 0
  for (const segment of segments(text))
    width += /\p{Emoji_Presentation}|[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]/u.test(
      segment,
    )
      ? 2
      : 1
  return width
}
