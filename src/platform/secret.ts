// The keys of the API's tokens and of secrets on disk. Where nobody configured one it is made once, and kept in a file that only this user reads.

import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { open, readFile, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import type { Logger } from 'pino'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { ServerConfig } from './config.ts'
import { diskError } from './disk-error.ts'

/** Reads the key, or makes it. Only the holder of the data directory's lock may call this. `setting` is where another can be given. */
export async function readOrMakeSecret(file: string, setting: string): Promise<string> {
  return (await readSecret(file, setting)) ?? (await makeSecret(file))
}

/** The key in the file, undefined if there is no such file. */
async function readSecret(file: string, setting: string): Promise<string | undefined> {
  const present = await readFile(file, { encoding: 'utf8', flag: constants.O_RDONLY | constants.O_NOFOLLOW }).catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined
      if (error.code === 'ELOOP')
        throw new HypemanError('invalid_request', `${file} is a link, which is never followed; set ${setting} to keep the key elsewhere`, {
          cause: error,
        })
      throw error
    },
  )
  if (present === undefined) return undefined
  if (present.trim().length >= 16) return present.trim()
  throw new HypemanError(
    'invalid_request',
    `${file} holds no usable key; put the right one back, or remove it and start again (what was made with the old key is then void)`,
  )
}

/** Whole under its name or not there, also after a loss of power. */
async function makeSecret(file: string): Promise<string> {
  const secret = randomBytes(32).toString('hex')
  const temporary = `${file}.tmp`
  await rm(temporary, { force: true })
  try {
    await writeSynced(temporary, `${secret}\n`)
    await rename(temporary, file)
    await using directory = await open(path.dirname(file), 'r')
    await directory.sync()
  } catch (error) {
    await rm(temporary, { force: true })
    throw diskError(file, error)
  }
  return secret
}

async function writeSynced(file: string, text: string): Promise<void> {
  await using handle = await open(file, 'wx', 0o600)
  await handle.writeFile(text)
  await handle.sync()
}

/** The key that secrets on disk are under, as configured or as kept in the file, and then those from before. */
export async function secretsKeys(
  { secrets: { key, previous_key: previous } }: Pick<ServerConfig, 'secrets'>,
  file: string,
): Promise<readonly [present: string, ...previous: string[]]> {
  const setting = 'SECRETS__KEY'
  const others = previous === undefined ? [] : [previous]
  if (key === undefined) return [await readOrMakeSecret(file, setting), ...others]
  // One that can't be used is in nobody's way: what was sealed with it is told by what needs it.
  const kept = await readSecret(file, setting).catch((error: unknown) => {
    if (isHypemanError(error, 'invalid_request')) return undefined
    throw error
  })
  return [key, ...others, ...(kept === undefined ? [] : [kept])]
}

/** A secret of fewer characters can be guessed. */
const SHORT_SECRET = 16

/** The key of new tokens, then the one before. */
export function secretsOf({ jwt_secret_previous: previous }: ServerConfig, secret: string): readonly string[] {
  return previous === undefined ? [secret] : [secret, previous]
}

/** `file` has the key where none is configured. */
export function warnOfSecret(config: ServerConfig, file: string, log: Logger): void {
  if (config.jwt_secret === undefined)
    log.warn({ secret: file }, 'no JWT_SECRET is configured: only this host can connect, with tokens made from the key in this file')
  else if (config.jwt_secret.length < SHORT_SECRET)
    log.warn(`JWT_SECRET is shorter than ${SHORT_SECRET} characters and easily guessed; openssl rand -hex 32 makes a good one`)
}
