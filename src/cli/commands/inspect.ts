// hypeman inspect: everything that the server says about an instance.

import type { Command } from 'commander'
import type { Instance } from '../../client/client.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { printObject } from '../output/format.ts'

export function inspectCommand(cli: Cli): Command {
  return command('inspect', 'Show everything about an instance', [
    ['hypeman inspect web', 'as JSON; the values of environment variables are hidden'],
    ['hypeman inspect --show-env --format yaml web', 'with them, as YAML'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .option('--show-env', 'show the values of environment variables')
    .action(async (name: string, options: { readonly showEnv?: boolean }, self: Command) => {
      const session = await cli.session(self)
      const instance = await session.client.instances.get(name, { signal: session.signal })
      await printObject(session, options.showEnv === true ? instance : withoutValues(instance))
    })
}

/** Values of the environment are often secrets. */
function withoutValues(instance: Instance): Instance {
  if (instance.env === undefined) return instance
  return { ...instance, env: Object.fromEntries(Object.keys(instance.env).map((name) => [name, '***'])) }
}
