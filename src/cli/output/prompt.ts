// Questions to a person. Without a terminal nobody is asked: the command has to be told by a flag.

import type { Terminal } from '../terminal.ts'

/** Asks yes or no; false if the person says no or leaves. Only to be called when standard input and error are terminals. */
export async function confirm(terminal: Terminal, message: string): Promise<boolean> {
  const { confirm: ask, isCancel } = await import('@clack/prompts')
  const answer = await ask({ message, initialValue: false, input: terminal.stdin, output: terminal.stderr, signal: terminal.signal })
  return !isCancel(answer) && answer
}

export function canAsk(terminal: Terminal): boolean {
  return terminal.stdin.isTTY === true && terminal.stderr.isTTY === true
}
