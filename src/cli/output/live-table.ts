// A table on a terminal that is drawn over itself while its rows change. Where there is no terminal nothing is shown: results are printed in the end.

import { tableLines, type Column } from './table.ts'
import type { Output } from '../terminal.ts'

const REDRAW_MS = 100
/** Lines below the table that stay free, for the cursor. */
const SPARE_LINES = 2

export interface LiveTable extends Disposable {
  /** Draws it for the last time; it stays. */
  finish(): void
}

/** Draws the rows, which the caller changes, until it is finished or disposed of; disposing takes it away. */
export function showLiveTable<Row>(stream: Output, columns: readonly Column<Row>[], rows: readonly Row[], color: boolean): LiveTable {
  if (stream.isTTY !== true) return { finish: () => undefined, [Symbol.dispose]: () => undefined }
  let drawn = 0
  const back = (): string => (drawn === 0 ? '\r' : `\r\x1b[${drawn}A`)
  const draw = (): void => {
    const lines = visible(tableLines(columns, rows, { width: (stream.columns ?? 80) - 1, color }), stream.rows ?? 24)
    stream.write(`${back()}${lines.map((line) => `${line}\x1b[K\n`).join('')}\x1b[J`)
    drawn = lines.length
  }
  const timer = setInterval(draw, REDRAW_MS)
  timer.unref()
  draw()
  return {
    finish() {
      clearInterval(timer)
      draw()
      drawn = 0
    },
    [Symbol.dispose]() {
      clearInterval(timer)
      if (drawn > 0) stream.write(`${back()}\x1b[J`)
      drawn = 0
    },
  }
}

/** A table that is longer than the screen could not be drawn over: its first rows stand for it. */
function visible(lines: readonly string[], screen: number): readonly string[] {
  const room = Math.max(screen - SPARE_LINES, 2)
  return lines.length <= room ? lines : [...lines.slice(0, room - 1), `… and ${lines.length - room + 1} more`]
}
