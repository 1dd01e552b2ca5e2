// hypeman fork: makes an instance out of another.

import { Option, type Command } from 'commander'
import type { ForkInstance, TargetState } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { environmentOf, withEnvironmentOptions, type EnvironmentOptions } from '../environment.ts'
import { printObject } from '../output/format.ts'
import { targetStates } from '../states.ts'

interface Options extends EnvironmentOptions {
  readonly fromRunning?: boolean
  readonly targetState?: TargetState
  readonly targetHypervisor?: string
}

export function forkCommand(cli: Cli): Command {
  const fork = command('fork', 'Make an instance out of another, with its disks and, unless it is stopped, its memory', [
    ['hypeman fork web web-2', 'from an instance that is stopped or in standby'],
    ['hypeman fork --from-running web web-2', 'from one that runs: it stands still for a moment'],
    ['hypeman fork web web-fc --target-hypervisor firecracker', 'from one that is stopped, onto another hypervisor'],
    ['hypeman fork --from-running --env TENANT=7 web web-7', 'with a variable of its own'],
    ['make-token 7 | hypeman fork --from-running --secret-file token=- web web-7', 'with a secret file of its own, from standard input'],
    ['hypeman snapshot fork <snapshot> --count 20 --name-prefix worker', 'to make many, from a snapshot'],
  ])
    .argument('<source>', 'id, name or unique beginning of an id')
    .argument('<name>', 'name of the new instance')
    .option('--from-running', 'allow that the source runs')
    .addOption(new Option('--target-state <state>', "state of the new instance; by default the source's").choices(targetStates))
    .option('--target-hypervisor <name>', 'another hypervisor; from instances that are stopped only')
  return withEnvironmentOptions(fork).action(async (source: string, name: string, options: Options, self: Command) => {
    const environment = await environmentOf(options, cli.terminal)
    const session = await cli.session(self)
    using progress = session.progress()
    progress.say(`Forking ${source}`)
    const body = {
      ...{ name, from_running: options.fromRunning, target_state: options.targetState, ...environment },
      target_hypervisor: options.targetHypervisor as ForkInstance['target_hypervisor'],
    }
    const instance = await session.client.instances.fork(source, body, { signal: session.signal })
    await printObject(session, instance, instance.id)
  })
}
