// hypeman standby: writes instances' memory to disk and frees it.

import type { Command } from 'commander'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { eachInstance } from '../each.ts'

export function standbyCommand(cli: Cli): Command {
  return command('standby', 'Write the memory of instances to disk and end their VMs; restore brings them back as they were', [
    ['hypeman standby web', 'frees the memory of web'],
    ['hypeman restore web', 'goes on where it was'],
  ])
    .argument('<instance...>', 'id, name or unique beginning of an id')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      const { signal } = session
      await eachInstance(
        cli,
        session,
        names,
        (name) => `Writing the memory of ${name} to disk`,
        (name) => session.client.instances.standby(name, { signal }),
      )
    })
}
