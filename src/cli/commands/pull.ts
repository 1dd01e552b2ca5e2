// hypeman pull, also as image create: gets an image from a registry onto the server.

import type { Command } from 'commander'
import { keyValue } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printObject } from '../output/format.ts'
import { pullImage } from '../pull.ts'

interface Options {
  readonly tag?: Readonly<Record<string, string>>
  readonly platform?: string
  readonly username?: string
  readonly password?: string
  readonly registryToken?: string
}

export function pullCommand(cli: Cli, name = 'pull'): Command {
  return command(name, 'Get an image from a registry', [
    [`hypeman ${name === 'pull' ? 'pull' : 'image create'} alpine:3.20`, 'from Docker Hub'],
    [
      `hypeman ${name === 'pull' ? 'pull' : 'image create'} registry.example.com/team/app:1 --username me --password "$PASSWORD"`,
      'with credentials, which are not kept',
    ],
  ])
    .argument('<image>', 'reference of the image, with a tag or a digest')
    .option('--tag <key=value>', 'tag of the image on the server; may be repeated', keyValue)
    .option('--platform <os/arch>', 'platform of a multi-platform image')
    .option('--username <name>', 'user name at the registry')
    .option('--password <password>', 'password at the registry')
    .option('--registry-token <token>', 'bearer token at the registry')
    .action(async (image: string, options: Options, self: Command) => {
      const session = await cli.session(self)
      using progress = session.progress()
      const { username, password, registryToken } = options
      const withCredentials = username !== undefined || password !== undefined || registryToken !== undefined
      const ready = await pullImage(
        session,
        {
          name: image,
          platform: options.platform,
          ...(options.tag === undefined ? {} : { tags: options.tag }),
          ...(withCredentials ? { credentials: { username, password, registry_token: registryToken } } : {}),
        },
        progress,
      )
      progress[Symbol.dispose]()
      await printObject(session, ready, ready.name)
    })
}
