// hypeman stop: shuts instances down.

import type { Command } from 'commander'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { each } from '../each.ts'
import { printObject } from '../output/format.ts'

export function stopCommand(cli: Cli): Command {
  return command('stop', 'Shut instances down: their disks stay, their memory goes', [
    ['hypeman stop web', 'asks the guest to end, then makes it'],
    ['hypeman stop web db', 'several, one after the other'],
  ])
    .argument('<instance...>', 'id, name or unique beginning of an id')
    .action(async (names: string[], _options: object, self: Command) => {
      const session = await cli.session(self)
      using progress = session.progress()
      await each(cli, session, names, async (name) => {
        progress.say(`Stopping ${name}`)
        const instance = await session.client.instances.stop(name, { signal: session.signal })
        await printObject(session, instance, instance.name)
      })
    })
}
