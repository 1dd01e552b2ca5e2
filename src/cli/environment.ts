// The environment that `-e` and `--env-file` describe together; what is named later counts, and `-e` counts more than a file.

import { readFile } from 'node:fs/promises'
import { environmentEntry, parseEnvFile } from './arguments.ts'
import type { Cli } from './context.ts'

export interface EnvironmentOptions {
  readonly env?: readonly string[]
  readonly envFile?: readonly string[]
}

/** `own` is where names without a value get theirs. */
export async function environmentOf(options: EnvironmentOptions, own: Cli['terminal']['env']): Promise<Record<string, string>> {
  const env: Record<string, string> = {}
  for (const file of options.envFile ?? []) Object.assign(env, parseEnvFile(file, await readFile(file, 'utf8'), own))
  for (const entry of options.env ?? []) Object.assign(env, environmentEntry(entry, own))
  return env
}
