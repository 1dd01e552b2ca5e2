// hypeman push …: sends an image of the server to another registry, and shows what was sent.

import type { Command } from 'commander'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printLines, printList, printObject } from '../output/format.ts'
import { whenPushed } from '../push.ts'
import { pushColumns } from '../views.ts'
import { credentialsOf, withCredentials, type CredentialOptions } from './credentials.ts'

interface Options extends CredentialOptions {
  readonly insecure?: boolean
  readonly detach?: boolean
}

export function pushCommand(cli: Cli): Command {
  const push = command('push', 'Send an image of the server to another registry and wait until it is there', [
    ['hypeman push my/app:1 registry.example.com/team/app:1', 'with the credentials that the server has'],
    ['hypeman push --username me --password-stdin my/app:1 ghcr.io/me/app:1 <password.txt', 'with credentials, which are not kept'],
    ['hypeman push -d registry.example.com/team/app:1', 'to the registry of its name; prints the id of the push at once'],
  ])
    .argument('<image>', 'reference in any spelling, or digest')
    .argument('[target]', "reference with a tag in the other registry; by default the image's own")
    .option('--insecure', 'over plain HTTP, or with any certificate')
    .option('-d, --detach', 'do not wait until it is there')
  push.enablePositionalOptions().addCommand(listCommand(cli)).addCommand(getCommand(cli))
  return withCredentials(push).action(async (image: string, target: string | undefined, options: Options, self: Command) => {
    const session = await cli.session(self)
    const credentials = await credentialsOf(options, cli.terminal)
    const request = { image, target: target ?? image, insecure: options.insecure === true, credentials }
    const begun = await session.client.pushes.create(request, { signal: session.signal })
    if (options.detach === true) return await printObject(session, begun, begun.id)
    using progress = session.progress()
    const done = await whenPushed(session, begun, progress)
    await printObject(session, done, `${done.target}@${done.digest}`)
  })
}

interface ListOptions {
  readonly quiet?: boolean
}

function listCommand(cli: Cli): Command {
  return command('list', 'List pushes, newest first: those under way and the last that ended', [
    ['hypeman push list', 'all'],
    ['hypeman push list -q', 'ids only'],
  ])
    .alias('ls')
    .option('-q, --quiet', 'print ids only')
    .action(async (options: ListOptions, self: Command) => {
      const session = await cli.session(self)
      const pushes = await session.client.pushes.list({ signal: session.signal })
      if (options.quiet === true)
        return await printLines(
          session,
          pushes.map(({ id }) => id),
        )
      await printList(session, pushes, pushColumns)
    })
}

function getCommand(cli: Cli): Command {
  return command('get', 'Show everything about a push', [['hypeman push get k3v9x2m7q1w8e5r4t6y0u2i4', 'as JSON']])
    .alias('inspect')
    .argument('<push>', 'id or unique beginning of an id')
    .action(async (id: string, _options: object, self: Command) => {
      const session = await cli.session(self)
      await printObject(session, await session.client.pushes.get(id, { signal: session.signal }))
    })
}
