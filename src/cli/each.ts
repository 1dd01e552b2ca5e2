// The same act on several things that were named: one that fails does not keep the others from being done.

import type { Cli, Session } from './context.ts'
import { describeError } from './report.ts'

/** Acts on each name in turn. Failures are told at once and make the command's outcome 1; an interrupt ends it. */
export async function each(cli: Cli, session: Session, names: readonly string[], act: (name: string) => Promise<void>): Promise<void> {
  for (const name of names) {
    session.signal.throwIfAborted()
    try {
      await act(name)
    } catch (error) {
      session.signal.throwIfAborted()
      cli.exitCode = 1
      session.note(describeError(error, session.settings.debug))
    }
  }
}
