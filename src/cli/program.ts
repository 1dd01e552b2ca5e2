// The command line as a whole: which commands there are, and how their end becomes an exit code: 0, 1 for a failure, 2 for wrong use, 128 and the signal for
// an interrupt, the guest's own code for exec and run --attach.

import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { addGlobalOptions } from './command.ts'
import { commandGroups, firstWord, type Loader, type Parts } from './commands.ts'
import { createCli, type Cli } from './context.ts'
import { describeError, UsageError } from './report.ts'
import { Interrupted, type Terminal } from './terminal.ts'

/** Runs one command line; resolves with the exit code. */
export async function runCommandLine(words: readonly string[], terminal: Terminal, parts: Parts): Promise<number> {
  const cli = createCli(terminal)
  try {
    const program = await createProgram(cli, parts, firstWord(words))
    await program.parseAsync(words, { from: 'user' })
    return cli.exitCode
  } catch (error) {
    return explain(error, terminal, words.includes('--debug'))
  }
}

/** With the commands of all files, or, for a quick start, only the one that was named if there is one. */
export async function createProgram(cli: Cli, parts: Parts, named?: string): Promise<Command> {
  const program = new Command('hypeman')
    .description('Runs OCI images as micro virtual machines that can be snapshotted and forked')
    .usage('[options] <command>')
    .version(version(), '-v, --version', 'print the version')
    .enablePositionalOptions()
    .showHelpAfterError('Add --help to see how it is used.')
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void cli.terminal.stdout.write(text),
      writeErr: (text) => void cli.terminal.stderr.write(text),
      outputError: (text, show) => show(text.replace(/^error: /, 'Error: ')),
      getOutHelpWidth: () => cli.terminal.stdout.columns ?? 100,
      getErrHelpWidth: () => cli.terminal.stderr.columns ?? 100,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
  addGlobalOptions(program)
  for (const [heading, loaders] of Object.entries(commandGroups)) {
    const known: Readonly<Record<string, Loader>> = loaders
    const only = named === undefined ? undefined : known[named]
    if (only === undefined && named !== undefined && isKnown(named)) continue
    const commands = await Promise.all((only === undefined ? Object.values(known) : [only]).map((load) => load(cli, parts)))
    for (const one of commands) program.addCommand(one.helpGroup(heading), { hidden: one.name().startsWith('_') })
  }
  inherit(program)
  return program
}

function isKnown(name: string): boolean {
  return Object.values(commandGroups).some((loaders) => Object.hasOwn(loaders, name))
}

/** Commands that were made on their own get the program's way of writing and ending. */
function inherit(command: Command): void {
  for (const inner of command.commands) {
    inner.copyInheritedSettings(command).helpCommand(false)
    inherit(inner)
  }
}

function explain(error: unknown, terminal: Terminal, debug: boolean): number {
  const say = (text: string): void => void terminal.stderr.write(`${text}\n`)
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
  const failure: unknown = error instanceof SuppressedError ? error.suppressed : error
  if (error instanceof SuppressedError) say(`Cleaning up failed, too.\n${describeError(error.error, debug)}`)
  const interrupt = interruptBehind(failure)
  if (interrupt !== undefined) return interrupt.exitCode
  say(describeError(failure, debug))
  return failure instanceof UsageError ? 2 : 1
}

/** What waits with a signal of Node's rejects with an `AbortError` that names the reason as its cause. */
function interruptBehind(error: unknown): Interrupted | undefined {
  if (error instanceof Interrupted) return error
  return error instanceof Error && error.cause instanceof Interrupted ? error.cause : undefined
}

function version(): string {
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { readonly version: string }
  return manifest.version
}
