// What a half-typed command line may go on with: commands, options and their values from the declarations themselves, names from the server.

import type { Argument, Command, Option } from 'commander'
import type { Client } from '../client/client.ts'
import { GLOBAL_GROUP } from './command.ts'

/** A person at a prompt does not wait longer for names, in milliseconds. */
const NAMES_LIMIT_MS = 2_000

/** `words` are those after the program's name, the unfinished one last. */
export async function complete(program: Command, words: readonly string[], connect: () => Promise<Client>): Promise<string[]> {
  const unfinished = words.at(-1) ?? ''
  const place = placeOf(program, words.slice(0, -1))
  const candidates = await candidatesFor(place, unfinished, connect)
  return candidates.filter((word) => word.startsWith(unfinished))
}

interface Place {
  readonly command: Command
  /** Arguments of the command that stand before. */
  readonly before: readonly string[]
  /** The option whose value comes now. */
  readonly valueOf: Option | undefined
  /** After `--`, or after the first argument of a command that hands on the rest. */
  readonly argumentsOnly: boolean
}

function placeOf(program: Command, finished: readonly string[]): Place {
  let command = program
  let before: string[] = []
  let valueOf: Option | undefined
  let argumentsOnly = false
  for (const word of finished) {
    if (valueOf !== undefined) {
      valueOf = undefined
    } else if (word === '--') {
      argumentsOnly = true
    } else if (word.startsWith('-') && !argumentsOnly) {
      const option = command.options.find((one) => one.long === word || one.short === word)
      if (option?.required === true) valueOf = option
    } else {
      const inner = before.length === 0 ? subcommand(command, word) : undefined
      if (inner === undefined) before.push(word)
      else [command, before] = [inner, []]
    }
  }
  return { command, before, valueOf, argumentsOnly }
}

function subcommand(command: Command, word: string): Command | undefined {
  return command.commands.find((one) => one.name() === word || one.aliases().includes(word))
}

async function candidatesFor(place: Place, unfinished: string, connect: () => Promise<Client>): Promise<readonly string[]> {
  const { command, before, valueOf, argumentsOnly } = place
  if (valueOf !== undefined) return valueOf.argChoices ?? []
  if (unfinished.startsWith('-') && !argumentsOnly) {
    const [own = [], shared = []] = [false, true].map((global) =>
      command.options.filter((option) => !option.hidden && (option.helpGroupHeading === GLOBAL_GROUP) === global),
    )
    return [...own, ...shared].flatMap((option) => option.long ?? option.short ?? [])
  }
  const inner = before.length > 0 ? [] : command.commands.filter((one) => !one.name().startsWith('_')).map((one) => one.name())
  return [...inner, ...(await argumentsFor(command, before, connect))]
}

async function argumentsFor(command: Command, before: readonly string[], connect: () => Promise<Client>): Promise<readonly string[]> {
  const declared = command.registeredArguments
  const argument = declared[before.length] ?? (declared.at(-1)?.variadic === true ? declared.at(-1) : undefined)
  if (argument === undefined) return []
  if (argument.argChoices !== undefined) return argument.argChoices
  return await names(command, argument, connect).catch(() => []) // without an answer there is nothing to offer, and nobody who could read why
}

/** The names that can stand for an argument, by what the argument is called. */
async function names(command: Command, argument: Argument, connect: () => Promise<Client>): Promise<readonly string[]> {
  const call = { signal: AbortSignal.timeout(NAMES_LIMIT_MS) }
  const instances = async (): Promise<string[]> => (await (await connect()).instances.list({}, call)).map((instance) => instance.name)
  if (command.name() === 'cp') return (await instances()).map((name) => `${name}:`)
  switch (argument.name()) {
    case 'instance':
    case 'source':
      return await instances()
    case 'image':
      return (await (await connect()).images.list({}, call)).flatMap(({ name }) => [name, name.replace(/^docker\.io\/(?:library\/)?/, '')])
    case 'volume':
      return (await (await connect()).volumes.list({}, call)).map((volume) => volume.name)
    case 'push':
      return (await (await connect()).pushes.list(call)).map(({ id }) => id)
    case 'snapshot':
      return (await (await connect()).snapshots.list({}, call)).flatMap(({ id, name }) => (name ? [name, id] : [id]))
    default:
      return []
  }
}
