// hypeman ps: lists instances.

import { Option, type Command } from 'commander'
import type { Instance, InstanceState } from '../../client/client.ts'
import { keyValue } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printLines, printList } from '../output/format.ts'
import { instanceStates } from '../states.ts'
import { instanceColumns } from '../views.ts'

interface Options {
  readonly all?: boolean
  readonly quiet?: boolean
  readonly state?: InstanceState
  readonly tag?: Readonly<Record<string, string>>
}

export function psCommand(cli: Cli): Command {
  return command('ps', 'List instances: those that run, or all', [
    ['hypeman ps', 'what runs'],
    ['hypeman ps -a', 'also what is stopped or in standby'],
    ['hypeman ps --state Standby -q', 'ids of what is in standby'],
    ['hypeman ps -a --tag team=web --format json', 'everything about the instances with a tag'],
  ])
    .alias('list')
    .option('-a, --all', 'also instances that are Stopped or in Standby')
    .option('-q, --quiet', 'print ids only')
    .addOption(new Option('--state <state>', 'only instances in this state').choices(instanceStates))
    .option('--tag <key=value>', 'only instances with this tag; may be repeated', keyValue)
    .action(async (options: Options, self: Command) => {
      const session = await cli.session(self)
      const instances = await session.client.instances.list({ state: options.state, tags: options.tag }, { signal: session.signal })
      const shown = options.all === true || options.state !== undefined ? instances : instances.filter(isUp)
      shown.sort((one, other) => other.created_at.localeCompare(one.created_at))
      if (options.quiet === true)
        await printLines(
          session,
          shown.map((instance) => instance.id),
        )
      else await printList(session, shown, instanceColumns)
    })
}

function isUp(instance: Instance): boolean {
  return instance.state !== 'Stopped' && instance.state !== 'Standby'
}
