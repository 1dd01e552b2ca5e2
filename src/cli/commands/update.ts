// hypeman update: changes what can be changed of an instance.

import type { Command } from 'commander'
import { command, group } from '../command.ts'
import type { Cli } from '../context.ts'
import { printObject } from '../output/format.ts'
import { ago } from '../output/text.ts'
import { UsageError } from '../report.ts'

interface Options {
  readonly ttl?: string
  readonly expiresAt?: string
}

export function updateCommand(cli: Cli): Command {
  return group('update', undefined, 'Change an instance', [expirationCommand(cli)])
}

function expirationCommand(cli: Cli): Command {
  return command('expiration', 'Set, move or clear the time at which an instance is deleted by itself', [
    ['hypeman update expiration web --ttl 2h', 'in two hours from now'],
    ['hypeman update expiration web --ttl 0s', 'never'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .option('--ttl <duration>', 'delete it after this time, such as 30m; 0s: never')
    .option('--expires-at <time>', 'delete it at this time (RFC 3339)')
    .action(async (name: string, options: Options, self: Command) => {
      const { ttl, expiresAt } = options
      if ((ttl === undefined) === (expiresAt === undefined)) throw new UsageError('give either --ttl or --expires-at')
      const session = await cli.session(self)
      const instance = await session.client.instances.update(name, { ttl, expires_at: expiresAt }, { signal: session.signal })
      await printObject(
        session,
        instance,
        instance.expires_at === null
          ? `${instance.name} stays`
          : `${instance.name} is deleted ${ago(instance.expires_at)} (${instance.expires_at})`,
      )
    })
}
