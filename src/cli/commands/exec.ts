// hypeman exec: runs a command in an instance.

import { Option, type Command } from 'commander'
import { environmentEntry, repeated, seconds } from '../arguments.ts'
import { command, passesThrough } from '../command.ts'
import type { Cli } from '../context.ts'
import { execInGuest } from '../exec.ts'
import { guestCommand } from '../guest-command.ts'
import { UsageError } from '../report.ts'

interface Options {
  readonly interactive?: boolean
  readonly tty?: boolean
  readonly it?: boolean
  readonly stdin: boolean
  readonly env?: readonly string[]
  readonly cwd?: string
  readonly user?: string
  readonly timeout?: number
}

export function execCommand(cli: Cli): Command {
  const exec = command('exec', 'Run a command in an instance and end with its exit code', [
    ['hypeman exec web', 'a shell, when called from a terminal'],
    ['hypeman exec -it web bash', 'another shell'],
    ['hypeman exec web -- ls -l /', 'a command'],
    ['cat dump.sql | hypeman exec db psql', 'with input from here, up to its end'],
    ['hypeman exec --no-stdin web date', 'without input: for loops that read their own'],
  ])
    .argument('<instance>', 'id, name or unique beginning of an id')
    .argument('[command...]', 'command and arguments; by default /bin/sh')
    .option('-i, --interactive', 'pass on standard input; done in any case unless --no-stdin is given')
    .option('-t, --tty', 'with a terminal in the guest; by default when this is one, too')
    .option('--it', 'the same as -i -t')
    .option('-T, --no-tty', 'without a terminal in the guest')
    .option('--no-stdin', "don't pass on standard input")
    .option('-e, --env <key=value>', 'environment variable; KEY alone takes the value from here; may be repeated', repeated)
    .option('--cwd <directory>', 'directory to run it in')
    .option('-u, --user <user>', "user to run it as, by name or number; by default the image's")
    .addOption(new Option('--timeout <seconds>', 'end it after this time, with exit code 124').argParser(seconds))
  return passesThrough(exec).action(async (instance: string, words: string[], options: Options, self: Command) => {
    const { stdin, stdout, env: own } = cli.terminal
    const wanted = options.it === true || options.tty === true
    const input = options.stdin || options.interactive === true || options.it === true
    if (options.interactive === true && !options.stdin) throw new UsageError('--interactive does not go with --no-stdin')
    // --no-tty sets the same value as --tty; absent, the terminal on this side decides.
    const tty = wanted || (options.tty === undefined && input && stdin.isTTY === true && stdout.isTTY === true)
    const env: Record<string, string> = tty && own['TERM'] !== undefined ? { TERM: own['TERM'] } : {}
    for (const entry of options.env ?? []) Object.assign(env, environmentEntry(entry, own))
    const session = await cli.session(self)
    cli.exitCode = await execInGuest(session, {
      instance,
      request: { command: guestCommand(words), tty, env, cwd: options.cwd, user: options.user, timeout: options.timeout },
      input,
    })
  })
}
