// hypeman serve: the server in the foreground. What it is made of is handed in by main.ts: no other command loads it.

import { Command, Option } from 'commander'
import type { ServeFlags } from '../../platform/config.ts'
import { portNumber } from '../arguments.ts'
import { withExamples } from '../command.ts'
import type { Cli } from '../context.ts'

/** Runs the server until the signal aborts; resolves with the exit code. What is not given is read from environment and file by the server itself. */
export type Serve = (flags: ServeFlags, signal: AbortSignal) => Promise<number>

const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

export function serveCommand(cli: Cli, serve: Serve): Command {
  const made = new Command('serve')
    .description('Run the server in the foreground')
    .addOption(new Option('--port <port>', 'port to listen on; 0 for a free one (PORT)').argParser((text) => portNumber(text, 0)))
    .option('--host <address>', 'address to listen on (HOST)')
    .option('--data-dir <directory>', 'directory of all state (DATA_DIR)')
    .option('--config <file>', 'configuration file (CONFIG_PATH)')
    .addOption(new Option('--log-level <level>', 'how much is logged (LOG_LEVEL)').choices(logLevels))
    .action(async (flags: ServeFlags) => {
      cli.exitCode = await serve(flags, cli.terminal.signal)
    })
  return withExamples(made, [
    ['hypeman serve', 'on the default port and data directory'],
    ['hypeman serve --port 8080 --data-dir ~/.local/share/hypeman', 'as an ordinary user'],
  ])
}
