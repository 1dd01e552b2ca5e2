// hypeman token create: signs a token with the secret of a server on this host. Works without the server.

import os from 'node:os'
import { Command, Option } from 'commander'
import { signToken } from '../../platform/token.ts'
import { longDurationMs, repeated } from '../arguments.ts'
import { group, withExamples } from '../command.ts'
import type { Cli } from '../context.ts'
import { localSecret } from '../settings.ts'
import { write } from '../terminal.ts'

interface Options {
  readonly sub?: string
  readonly ttl: number
  readonly scope?: readonly string[]
  readonly dataDir?: string
}

const DAY_MS = 86_400_000

export function tokenCommand(cli: Cli): Command {
  return group('token', undefined, 'Make tokens for the server', [createCommand(cli)])
}

function createCommand(cli: Cli): Command {
  const made = new Command('create')
    .description("Sign a token with the secret of this host's server")
    .option('--sub <subject>', 'whom the token speaks for; by default this user')
    .addOption(new Option('--ttl <duration>', 'how long it is valid, such as 12h or 30d').argParser(longDurationMs).default(DAY_MS, '24h'))
    .option('--scope <scope>', 'what it allows, such as instance:read; by default everything; may be repeated', repeated)
    .option('--data-dir <directory>', 'data directory of the server (DATA_DIR)')
    .action(async (options: Options) => {
      const secret = await localSecret(cli.terminal.env, options.dataDir)
      if (secret === undefined)
        throw new Error(
          'no secret of a server that this user may read was found; start the server once, give its --data-dir or JWT_SECRET, or become the user who runs it',
        )
      const claims = {
        subject: options.sub ?? cli.terminal.env['USER'] ?? os.userInfo().username,
        ttlSeconds: Math.ceil(options.ttl / 1000),
        scopes: options.scope,
      }
      await write(cli.terminal.stdout, `${signToken(secret, claims)}\n`)
    })
  return withExamples(made, [
    ['hypeman token create --ttl 30d', 'for a month, allows everything'],
    ['hypeman token create --sub ci --scope instance:read --scope image:read', 'only looks'],
    ['export HYPEMAN_API_KEY=$(hypeman token create)', 'for other clients'],
  ])
}
