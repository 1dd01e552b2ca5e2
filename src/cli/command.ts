// How a command is declared: its words, its examples and the options that all commands share. What commands do: commands/.

import { Command, Option } from 'commander'
import { formats } from './output/format.ts'

/** Example invocations of a command, for help and documentation; each with what it does. */
export type Examples = readonly (readonly [invocation: string, meaning: string])[]

const examplesOf = new WeakMap<Command, Examples>()

/** A command that talks to the server. */
export function command(name: string, description: string, examples: Examples): Command {
  const made = new Command(name).description(description)
  addGlobalOptions(made)
  return withExamples(made, examples)
}

/** A command that only holds others. */
export function group(name: string, alias: string | undefined, description: string, commands: readonly Command[]): Command {
  const made = new Command(name).description(description)
  if (alias !== undefined) made.alias(alias)
  addGlobalOptions(made.enablePositionalOptions())
  for (const one of commands) made.addCommand(one)
  return made
}

/** Options that end at the first argument: what follows belongs to the guest. */
export function passesThrough(target: Command): Command {
  return target
    .passThroughOptions()
    .addHelpText('after', '\nOptions go before the first argument; what follows it is the command for the guest.')
}

export function withExamples(target: Command, examples: Examples): Command {
  examplesOf.set(target, examples)
  const width = Math.max(...examples.map(([invocation]) => invocation.length))
  const lines = examples.map(([invocation, meaning]) => `  ${invocation.padEnd(width)}  # ${meaning}`)
  return target.addHelpText('after', `\nExamples:\n${lines.join('\n')}`)
}

export function examples(target: Command): Examples {
  return examplesOf.get(target) ?? []
}

export const GLOBAL_GROUP = 'Global options:'

/** Accepted before and after the command's name. */
export function addGlobalOptions(target: Command): void {
  target
    .addOption(new Option('--base-url <url>', 'address of the server (HYPEMAN_BASE_URL)').helpGroup(GLOBAL_GROUP))
    .addOption(new Option('--api-key <token>', 'token to show to the server (HYPEMAN_API_KEY)').helpGroup(GLOBAL_GROUP))
    .addOption(new Option('--format <format>', 'how results are printed').choices(formats).helpGroup(GLOBAL_GROUP))
    .addOption(new Option('--debug', 'show each request on standard error').helpGroup(GLOBAL_GROUP))
}
