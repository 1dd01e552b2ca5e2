// The same act on several things that were named: one that fails does not keep the others from being done.

import type { Instance } from '../client/client.ts'
import type { Cli, Session } from './context.ts'
import { printObject } from './output/format.ts'
import type { Progress } from './output/progress.ts'
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

/** Acts on each instance in turn, with a line that says so, and prints what became of it. */
export async function eachInstance(
  cli: Cli,
  session: Session,
  names: readonly string[],
  doing: (name: string) => string,
  act: (name: string, progress: Progress) => Promise<Instance>,
): Promise<void> {
  using progress = session.progress()
  await each(cli, session, names, async (name) => {
    progress.say(doing(name))
    const instance = await act(name, progress)
    await printObject(session, instance, instance.name)
  })
}
