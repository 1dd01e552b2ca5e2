// hypeman stop: shuts instances down.

import type { Command } from 'commander'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { eachInstance } from '../each.ts'

export function stopCommand(cli: Cli): Command {
  return command('stop', 'Shut instances down: their disks stay, their memory goes', [
    ['hypeman stop web', 'asks the guest to end, then makes it'],
    ['hypeman stop web db', 'several, one after the other'],
  ])
    .argument('<instance...>', 'id, name or unique beginning of an id')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      const { signal } = session
      await eachInstance(
        cli,
        session,
        names,
        (name) => `Stopping ${name}`,
        (name) => session.client.instances.stop(name, { signal }),
      )
    })
}
