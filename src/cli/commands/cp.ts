// hypeman cp: copies files into an instance and out of it.

import type { Command } from 'commander'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { parsePlace, type Place } from '../copy/places.ts'
import { size } from '../output/text.ts'
import { UsageError } from '../report.ts'

interface Options {
  readonly archive?: boolean
  readonly followLinks?: boolean
  readonly quiet?: boolean
}

export function cpCommand(cli: Cli): Command {
  return command('cp', 'Copy files and directories into an instance or out of it', [
    ['hypeman cp app.conf web:/etc/app/', 'a file into a directory'],
    ['hypeman cp ./site web:/srv', 'a directory: to /srv/site if /srv is there, else as /srv'],
    ['hypeman cp web:/var/log/. ./logs', 'what is in a directory'],
    ['hypeman cp web:/etc - | tar -t', 'as a tar stream; - as the source takes one'],
  ])
    .argument('<source>', 'path, instance:/path, or - for a tar stream')
    .argument('<destination>', 'path, instance:/path, or - for a tar stream')
    .option('-a, --archive', 'keep owner and group')
    .option('-L, --follow-links', 'copy what symbolic links lead to')
    .option('-q, --quiet', "don't show progress")
    .action(async (source: string, destination: string, options: Options, self: Command) => {
      const [from, to] = [parsePlace(source), parsePlace(destination)]
      const session = await cli.session(self)
      using progress = options.quiet === true ? undefined : session.progress()
      const tell = (bytes: number): void => progress?.say(`Copying ${source}`, `(${size(bytes)})`)
      const common = { followLinks: options.followLinks === true, owners: options.archive === true, tell }
      tell(0)
      if (from.kind === 'guest' && to.kind === 'local') {
        const { copyFromGuest } = await import('../copy/from-guest.ts')
        await copyFromGuest(session, { instance: from.instance, source: from.path, destination: to.path, ...common })
      } else if (from.kind === 'local' && to.kind === 'guest') {
        const { copyToGuest } = await import('../copy/to-guest.ts')
        await copyToGuest(session, { instance: to.instance, source: from.path, destination: to.path, ...common })
      } else if (from.kind === 'guest' && to.kind === 'stream') {
        const { tarFromGuest } = await import('../copy/tar.ts')
        await tarFromGuest(session, { instance: from.instance, path: from.path, ...common })
      } else if (from.kind === 'stream' && to.kind === 'guest') {
        const { tarToGuest } = await import('../copy/tar.ts')
        await tarToGuest(session, { instance: to.instance, path: to.path, ...common })
      } else throw new UsageError(whyNot(from, to))
    })
}

function whyNot(from: Place, to: Place): string {
  if (from.kind === 'guest' && to.kind === 'guest') return 'from one instance to another is not possible at once: copy to a path here first'
  return 'one of source and destination has to be in an instance: write it as instance:/path'
}
