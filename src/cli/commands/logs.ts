// hypeman logs: what an instance's program, its VMM or the server said.

import { Option, type Command } from 'commander'
import type { LogSource } from '../../client/client.ts'
import { wholeNumber } from '../arguments.ts'
import { command } from '../command.ts'
import type { Cli } from '../context.ts'
import { logSources } from '../states.ts'
import { write } from '../terminal.ts'

interface Options {
  readonly follow?: boolean
  readonly tail: number
  readonly source: LogSource
}

export function logsCommand(cli: Cli): Command {
  return command('logs', 'Show what an instance has written', [
    ['hypeman logs web', 'the last 100 lines of its program'],
    ['hypeman logs -f --tail 0 web', 'what it writes from now on'],
    ['hypeman logs -s vmm web', 'kernel and VMM, for an instance that does not come up'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .option('-f, --follow', 'go on with what is written')
    .addOption(new Option('--tail <lines>', 'lines of the past').argParser(wholeNumber).default(100))
    .addOption(
      new Option('-s, --source <source>', 'app: the program; vmm: kernel and VMM; hypeman: what the server did')
        .choices(logSources)
        .default('app'),
    )
    .action(async (name: string, options: Options, self: Command) => {
      const session = await cli.session(self)
      const { tail, source, follow = false } = options
      for await (const line of session.client.instances.logs(name, { tail, source, follow }, { signal: session.signal }))
        await write(session.stdout, `${line}\n`)
    })
}
