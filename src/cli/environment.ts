// The variables that the command line describes: `-e` and `--env-file` together, and the secret ones and secret files, whose values are never words of it. What is named
// later counts, and `-e` counts more than a file.

import { readFile } from 'node:fs/promises'
import type { Command } from 'commander'
import { environmentEntry, parseEnvFile, repeated } from './arguments.ts'
import type { Cli } from './context.ts'
import { UsageError } from './report.ts'
import { secretFilesOf } from './secret-files.ts'

export interface EnvironmentOptions {
  readonly env?: readonly string[]
  readonly envFile?: readonly string[]
  readonly secretEnv?: readonly string[]
  readonly secretEnvFile?: readonly string[]
  readonly secretFile?: readonly string[]
  readonly inheritSecrets?: boolean
}

export function withEnvironmentOptions(command: Command): Command {
  return command
    .option('-e, --env <key=value>', 'environment variable; KEY alone takes the value from here; may be repeated', repeated)
    .option('--env-file <file>', 'file of KEY=VALUE lines; may be repeated', repeated)
    .option(
      '--secret-env <key>',
      "secret environment variable; takes its value from here, since others see a command's words; may be repeated",
      repeated,
    )
    .option('--secret-env-file <file>', 'file of KEY=VALUE lines that are secret; may be repeated', repeated)
    .option(
      '--secret-file <[name=]path>',
      'text file that the guest has as /run/secrets/NAME, in memory, for root; NAME=- reads standard input; may be repeated',
      repeated,
    )
    .option('--inherit-secrets', 'forks that others make have these secrets, too')
}

export interface Environment {
  readonly env?: Record<string, string>
  readonly secret_env?: Record<string, string>
  readonly secret_files?: Record<string, string>
  readonly inherit_secrets?: boolean
}

/** What was given, in the wire's words. Names without a value get theirs from the terminal's environment. */
export async function environmentOf(options: EnvironmentOptions, { env: own, stdin }: Cli['terminal']): Promise<Environment> {
  const env = await variablesIn(options.envFile, own)
  for (const entry of options.env ?? []) Object.assign(env, environmentEntry(entry, own))
  // A program that starts without its secret is worse than one that does not start.
  const secrets = await variablesIn(options.secretEnvFile, own, true)
  for (const name of options.secretEnv ?? []) secrets[name] = secretValue(name, own)
  const files = await secretFilesOf(options.secretFile, stdin)
  return {
    ...(isEmpty(env) ? {} : { env }),
    ...(isEmpty(secrets) ? {} : { secret_env: secrets }),
    ...(isEmpty(files) ? {} : { secret_files: files }),
    ...(options.inheritSecrets === undefined ? {} : { inherit_secrets: options.inheritSecrets }),
  }
}

async function variablesIn(files: readonly string[] = [], own: Cli['terminal']['env'], needed = false): Promise<Record<string, string>> {
  const variables: Record<string, string> = {}
  for (const file of files) Object.assign(variables, parseEnvFile(file, await readFile(file, 'utf8'), own, needed))
  return variables
}

function secretValue(name: string, own: Cli['terminal']['env']): string {
  if (name.includes('='))
    throw new UsageError(
      '--secret-env takes a name alone: everybody on this host can see the words of a command; put the value into the environment, or into a file for --secret-env-file',
    )
  const value = own[name]
  if (value === undefined) throw new UsageError(`--secret-env ${name}: there is no such variable here`)
  return value
}

function isEmpty(variables: Readonly<Record<string, string>>): boolean {
  return Object.keys(variables).length === 0
}
