// Credentials of one pull, as skopeo takes them: a file of mode 0600 in the pull's own staged directory, gone when the pull ends.
// Never arguments, never environment, never in a log.

import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import type { Reference } from './reference.ts'
import type { RegistryCredentials } from './types.ts'

/** Variables that make skopeo use the credentials; none if there are none, and then the server's own count (containers-auth.json(5)). */
export async function credentialsEnvironment(
  directory: string,
  reference: Reference,
  credentials: RegistryCredentials | undefined,
): Promise<Readonly<Record<string, string>>> {
  const { username = '', password = '' } = credentials ?? {}
  if (username === '' && password === '') return {}
  const file = path.join(directory, 'auth.json')
  const auth = Buffer.from(`${username}:${password}`).toString('base64')
  await writeFile(file, JSON.stringify({ auths: { [reference.domain]: { auth } } }), { mode: 0o600, flag: 'wx' })
  return { REGISTRY_AUTH_FILE: file }
}

/** True if the request brought any; an empty object is none. */
export function hasCredentials(credentials: RegistryCredentials | undefined): boolean {
  return Object.values(credentials ?? {}).some((value) => value !== undefined && value !== '')
}
