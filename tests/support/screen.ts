// The command line as its own process at a real terminal: keys go in, and what a person would see is asked for.

import path from 'node:path'
import { spawn } from '@lydell/node-pty'
import xterm from '@xterm/headless'

const main = path.join(import.meta.dirname, '../../src/main.ts')

export interface Screen extends AsyncDisposable {
  readonly exitCode: Promise<number>
  /** Without the blanks at their ends. */
  lines(): string[]
  type(keys: string): void
  resize(cols: number, rows: number): void
}

/** Starts hypeman with these words at a terminal of 80 columns and 24 rows. Disposing ends it. */
export function openScreen(words: readonly string[], environment: Readonly<Record<string, string>>): Screen {
  const terminal = new xterm.Terminal({ cols: 80, rows: 24, allowProposedApi: true })
  const pty = spawn(process.execPath, [main, ...words], { cols: 80, rows: 24, env: { ...environment, TERM: 'xterm-256color' } })
  pty.onData((data) => terminal.write(data))
  const { promise: exitCode, resolve } = Promise.withResolvers<number>()
  let running = true
  pty.onExit((end) => {
    running = false
    resolve(end.exitCode)
  })
  return {
    exitCode,
    lines: () =>
      Array.from({ length: terminal.rows }, (_, row) => terminal.buffer.active.getLine(row)?.translateToString(true).trimEnd() ?? ''),
    type: (keys) => pty.write(keys),
    resize(cols, rows) {
      terminal.resize(cols, rows)
      pty.resize(cols, rows)
    },
    async [Symbol.asyncDispose]() {
      if (running) pty.kill('SIGKILL')
      await exitCode
      terminal.dispose()
    },
  }
}
