// One line on standard error that says what a command is waiting for. On a terminal it is redrawn in place and leaves nothing; elsewhere each text that lasts is
// a line.

import { displayWidth, fit } from './table.ts'
import type { Output } from '../terminal.ts'

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']
const FRAME_MS = 100
/** A text that is gone again sooner than this is not shown on a terminal, in milliseconds. */
const PATIENCE_MS = 150
/** Elsewhere a text has to last longer, in milliseconds: logs of scripts are not filled with what went well at once. */
const PLAIN_PATIENCE_MS = 1_000

export interface Progress extends Disposable {
  /** What is waited for now; `detail` changes often (a count, a percentage) and is only shown on a terminal. */
  say(text: string, detail?: string): void
  /** Takes the line away so that something else can be written; it comes back with the next `say`. */
  clear(): void
}

/** Shows progress until it is disposed of. */
export function startProgress(stream: Output): Progress {
  return stream.isTTY === true ? new LiveLine(stream) : new PlainLines(stream)
}

class LiveLine implements Progress {
  readonly #stream: Output
  readonly #started = performance.now()
  readonly #timer: NodeJS.Timeout
  #frame = 0
  #text = ''
  #shown = false

  constructor(stream: Output) {
    this.#stream = stream
    this.#timer = setInterval(() => this.#draw(), FRAME_MS)
    this.#timer.unref()
  }

  say(text: string, detail?: string): void {
    this.#text = detail === undefined ? text : `${text} ${detail}`
  }

  clear(): void {
    this.#text = ''
    if (this.#shown) this.#stream.write('\r\x1b[K')
    this.#shown = false
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer)
    this.clear()
  }

  #draw(): void {
    const elapsed = performance.now() - this.#started
    if (this.#text === '' || elapsed < PATIENCE_MS) return
    this.#frame = (this.#frame + 1) % FRAMES.length
    const line = `${FRAMES[this.#frame]} ${this.#text}${elapsed < 2000 ? '' : ` (${Math.round(elapsed / 1000)} s)`}`
    this.#stream.write(`\r${cut(line, (this.#stream.columns ?? 80) - 1)}\x1b[K`)
    this.#shown = true
  }
}

class PlainLines implements Progress {
  readonly #stream: Output
  #text = ''
  #timer: NodeJS.Timeout | undefined

  constructor(stream: Output) {
    this.#stream = stream
  }

  say(text: string): void {
    if (text === this.#text) return
    this.clear()
    this.#text = text
    this.#timer = setTimeout(() => this.#stream.write(`${text}\n`), PLAIN_PATIENCE_MS)
    this.#timer.unref()
  }

  clear(): void {
    clearTimeout(this.#timer)
    this.#text = ''
  }

  [Symbol.dispose](): void {
    this.clear()
  }
}

/** A line that wraps could not be drawn over. */
function cut(line: string, width: number): string {
  return displayWidth(line) <= width ? line : fit(line, Math.max(width, 1))
}
