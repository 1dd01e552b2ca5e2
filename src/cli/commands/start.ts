// hypeman start: boots stopped instances.

import type { Command } from 'commander'
import { words } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { each } from '../each.ts'
import { printObject } from '../output/format.ts'
import { whenRunning } from '../wait.ts'

interface Options {
  readonly entrypoint?: readonly string[]
  readonly cmd?: readonly string[]
  readonly detach?: boolean
}

export function startCommand(cli: Cli): Command {
  return command('start', 'Boot stopped instances again, on the disks that they had', [
    ['hypeman start web', 'waits until it runs'],
    ['hypeman start web --cmd sleep --cmd 60', 'with another command'],
  ])
    .argument('<instance...>', 'id, name or unique beginning of an id')
    .option('--entrypoint <word>', "another entrypoint than the image's; may be repeated, or a JSON array", words)
    .option('--cmd <word>', "another command than the image's; may be repeated, or a JSON array", words)
    .option('-d, --detach', "don't wait until they run")
    .action(async (names: string[], options: Options, self: Command) => {
      const session = await cli.session(self)
      using progress = session.progress()
      await each(cli, session, names, async (name) => {
        progress.say(`Starting ${name}`)
        const body = {
          ...(options.entrypoint === undefined ? {} : { entrypoint: options.entrypoint }),
          ...(options.cmd === undefined ? {} : { cmd: options.cmd }),
        }
        const begun = await session.client.instances.start(name, body, { signal: session.signal })
        const instance = options.detach === true ? begun : await whenRunning(session, begun, progress)
        await printObject(session, instance, instance.name)
      })
    })
}
