// Options with which a command shows credentials to a registry. They go with the one request and are kept nowhere.

import type { Command } from 'commander'
import type { PullRequest } from '../../client/client.ts'
import { UsageError } from '../report.ts'
import type { Terminal } from '../terminal.ts'

export interface CredentialOptions {
  readonly username?: string
  readonly password?: string
  readonly passwordStdin?: boolean
  readonly registryToken?: string
}

export function withCredentials(target: Command): Command {
  return target
    .option('--username <name>', 'user name at the registry')
    .option('--password <password>', 'password at the registry; others on this host can see it, --password-stdin hides it')
    .option('--password-stdin', 'read the password from standard input')
    .option('--registry-token <token>', 'bearer token at the registry')
}

/** Nothing if no option was given. */
export async function credentialsOf(options: CredentialOptions, terminal: Terminal): Promise<PullRequest['credentials']> {
  const { username, registryToken } = options
  if (options.password !== undefined && options.passwordStdin === true)
    throw new UsageError('give --password or --password-stdin, not both')
  const password = options.passwordStdin === true ? await readAll(terminal) : options.password
  if (username === undefined && password === undefined && registryToken === undefined) return undefined
  return { username, password, registry_token: registryToken }
}

async function readAll(terminal: Terminal): Promise<string> {
  const chunks: Uint8Array[] = []
  for await (const chunk of terminal.stdin as AsyncIterable<Uint8Array>) chunks.push(chunk)
  return Buffer.concat(chunks)
    .toString('utf8')
    .replace(/\r?\n$/, '')
}
