// hypeman start: boots stopped instances.

import type { Command } from 'commander'
import { words } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { eachInstance } from '../each.ts'
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
      const { detach, entrypoint, cmd } = options
      await eachInstance(
        cli,
        session,
        names,
        (name) => `Starting ${name}`,
        async (name, progress) => {
          const begun = await session.client.instances.start(name, { entrypoint, cmd }, { signal: session.signal })
          return detach === true ? begun : await whenRunning(session, begun, progress)
        },
      )
    })
}
