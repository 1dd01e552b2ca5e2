// Writes docs/cli.md from the declarations of the commands. With --check only says, by its exit code, whether the file is as it would be written.

import { readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Argument, Command, Option } from 'commander'
import { examples, GLOBAL_GROUP } from '../src/cli/command.ts'
import { createCli } from '../src/cli/context.ts'
import { createProgram } from '../src/cli/program.ts'
import { processTerminal } from '../src/cli/terminal.ts'

export const referenceFile = path.join(import.meta.dirname, '../docs/cli.md')

/** All commands, as the command line has them. */
export async function wholeProgram(): Promise<Command> {
  return await createProgram(createCli(processTerminal({})), {
    serve: () => Promise.resolve(0),
    hypervisors: () => Promise.reject(new Error('nothing is run')),
  })
}

/** Each command that does something, with its whole name. */
export function* commandsOf(command: Command, name = command.name()): Generator<{ readonly name: string; readonly command: Command }> {
  for (const inner of command.commands) {
    const innerName = `${name} ${inner.name()}`
    if (inner.name().startsWith('_')) continue
    // What has examples does something itself, also if it has commands below it.
    if (inner.commands.length === 0 || examples(inner).length > 0) yield { name: innerName, command: inner }
    yield* commandsOf(inner, innerName)
  }
}

/** Options of a command alone that help shows. */
export function ownOptions(command: Command): readonly Option[] {
  return command.options.filter((option) => !option.hidden && option.helpGroupHeading !== GLOBAL_GROUP)
}

export function renderReference(program: Command): string {
  const sections = [...commandsOf(program)].map(({ name, command }) => renderCommand(name, command))
  const shared = program.options.filter((option) => option.helpGroupHeading === GLOBAL_GROUP)
  return `# Command line

<!-- Written by scripts/cli-reference.ts from the commands themselves: change those and run it. -->

Names, ids and unique beginnings of ids stand for instances everywhere. Flags count before the environment, and that before
\`~/.config/hypeman/cli.yaml\` (\`base_url\`, \`api_key\`). Without a token, a server on this host is shown one that is made from its secret, if this user may
read that. Colours and drawing stay away where there is no terminal, colours also with \`NO_COLOR\`.

| Exit code | Means |
|---|---|
| 0 | done |
| 1 | failed; standard error says what and what to do |
| 2 | used wrongly |
| 128 + n | ended by signal n, such as 130 for Ctrl-C |
| others | of the guest's program, with \`exec\`, \`run --attach\` and \`run --rm\` |

## Options of every command that asks a server

${optionTable(shared)}

${sections.join('\n')}`
}

function renderCommand(name: string, command: Command): string {
  const parts = [`## ${name}`, `${command.description()}.`, `\`${name} ${usageOf(command)}\``]
  const aliases = command.aliases()
  if (aliases.length > 0) parts.push(`Also: \`${aliases.join('`, `')}\`.`)
  if (command.registeredArguments.length > 0) parts.push(argumentTable(command.registeredArguments))
  const options = ownOptions(command)
  if (options.length > 0) parts.push(optionTable(options))
  const width = Math.max(...examples(command).map(([invocation]) => invocation.length))
  parts.push(
    `\`\`\`sh\n${examples(command)
      .map(([invocation, meaning]) => `${invocation.padEnd(width)}  # ${meaning}`)
      .join('\n')}\n\`\`\``,
  )
  return `${parts.join('\n\n')}\n`
}

function usageOf(command: Command): string {
  return command
    .usage()
    .replace('[options]', command.options.length > 0 ? '[options]' : '')
    .trim()
}

function argumentTable(declared: readonly Argument[]): string {
  const rows = declared.map((argument) => `| \`${argument.name()}\` | ${cell(argument.description)}${choices(argument.argChoices)} |`)
  return ['| Argument | |', '|---|---|', ...rows].join('\n')
}

function optionTable(options: readonly Option[]): string {
  const rows = options.map(
    (option) => `| \`${cell(option.flags)}\` | ${cell(option.description)}${choices(option.argChoices)}${defaultOf(option)} |`,
  )
  return ['| Option | |', '|---|---|', ...rows].join('\n')
}

function choices(values: readonly string[] | undefined): string {
  return values === undefined ? '' : `; one of ${values.map((value) => `\`${value}\``).join(', ')}`
}

function defaultOf(option: Option): string {
  if (option.mandatory) return '; required'
  const value: unknown = option.defaultValueDescription ?? option.defaultValue
  return option.negate || (typeof value !== 'string' && typeof value !== 'number') ? '' : `; by default ${value}`
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|')
}

if (import.meta.main) {
  const text = renderReference(await wholeProgram())
  if (!process.argv.includes('--check')) await writeFile(referenceFile, text)
  else if ((await readFile(referenceFile, 'utf8')) !== text) process.exitCode = 1
}
