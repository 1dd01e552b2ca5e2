// hypeman restore: brings instances back from standby.

import type { Command } from 'commander'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { eachInstance } from '../each.ts'

export function restoreCommand(cli: Cli): Command {
  return command('restore', 'Bring instances back from standby, with their programs as they were', [
    ['hypeman restore web', 'goes on where standby left it'],
    ['hypeman snapshot restore web before-upgrade', 'to go back to a snapshot instead'],
  ])
    .argument('<instance...>', 'id, name or unique beginning of an id')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      const { signal } = session
      await eachInstance(
        cli,
        session,
        names,
        (name) => `Restoring ${name}`,
        (name) => session.client.instances.restore(name, { signal }),
      )
    })
}
