// hypeman pull, also as image create: gets an image from a registry onto the server.

import type { Command } from 'commander'
import { keyValue } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printObject } from '../output/format.ts'
import { pullImage } from '../pull.ts'
import { credentialsOf, withCredentials, type CredentialOptions } from './credentials.ts'

interface Options extends CredentialOptions {
  readonly tag?: Readonly<Record<string, string>>
  readonly platform?: string
}

export function pullCommand(cli: Cli, name: 'pull' | 'create' = 'pull'): Command {
  const invocation = name === 'pull' ? 'hypeman pull' : 'hypeman image create'
  const pull = command(name, 'Get an image from a registry and wait until it can be run', [
    [`${invocation} alpine:3.20`, 'from Docker Hub'],
    [`${invocation} --username me --password-stdin registry.example.com/app:1 <password.txt`, 'with credentials, which are not kept'],
  ])
    .argument('<image>', 'reference of the image, with a tag or a digest')
    .option('-l, --tag <key=value>', 'tag of the image on the server; may be repeated', keyValue)
    .option('--platform <os/arch>', 'platform of a multi-platform image')
  return withCredentials(pull).action(async (image: string, options: Options, self: Command) => {
    const session = await cli.session(self)
    const credentials = await credentialsOf(options, cli.terminal)
    using progress = session.progress()
    const ready = await pullImage(session, { name: image, platform: options.platform, tags: options.tag, credentials }, progress)
    await printObject(session, ready, ready.name)
  })
}
