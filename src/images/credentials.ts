// Credentials of one pull or push, as skopeo takes them: a file without a name, in memory, that it inherits open. It is gone with the transfer, and with
// the server however that ends. Never arguments, never a file on disk, never in a log.

import { randomBytes } from 'node:crypto'
import { open, unlink, type FileHandle } from 'node:fs/promises'
import path from 'node:path'
import type { Reference } from './reference.ts'
import type { RegistryCredentials } from './types.ts'

/** What a tool needs to use credentials; nothing if there are none, and then it uses the server's own (containers-auth.json(5)). */
export interface LentCredentials extends AsyncDisposable {
  readonly env: Readonly<Record<string, string>>
  /** Of the file, which the tool finds as 3. */
  readonly inherit: readonly number[]
}

/** `directory` is the transfer's own: the file is made there where the host has no directory in memory. */
export async function lendCredentials(
  directory: string,
  reference: Reference,
  credentials: RegistryCredentials | undefined,
): Promise<LentCredentials> {
  const { username = '', password = '' } = credentials ?? {}
  if (username === '' && password === '') return { env: {}, inherit: [], [Symbol.asyncDispose]: () => Promise.resolve() }
  const auth = Buffer.from(`${username}:${password}`).toString('base64')
  await using undo = new AsyncDisposableStack()
  const file = undo.use(await openNameless(directory))
  await file.writeFile(JSON.stringify({ auths: { [reference.domain]: { auth } } }))
  const owned = undo.move()
  return { env: { REGISTRY_AUTH_FILE: '/proc/self/fd/3' }, inherit: [file.fd], [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** tmpfs on every Linux that follows the filesystem hierarchy of its C library (shm_overview(7)). */
const IN_MEMORY = '/dev/shm'

/** A new file that nobody finds: its name is gone before anything is in it. */
async function openNameless(directory: string): Promise<FileHandle> {
  const name = `hypeman-${randomBytes(16).toString('hex')}`
  const inMemory = path.join(IN_MEMORY, name)
  const [file, handle] = await open(inMemory, 'wx+', 0o600).then(
    (opened) => [inMemory, opened] as const,
    async () => [path.join(directory, name), await open(path.join(directory, name), 'wx+', 0o600)] as const,
  )
  await using undo = new AsyncDisposableStack()
  undo.use(handle)
  await unlink(file)
  undo.move()
  return handle
}

/** True if the request brought any; an empty object is none. */
export function hasCredentials(credentials: RegistryCredentials | undefined): boolean {
  return Object.values(credentials ?? {}).some((value) => value !== undefined && value !== '')
}
