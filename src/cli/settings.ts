// Which server, as whom, and in which form: flags before environment before `~/.config/hypeman/cli.yaml`. Without a key, a local server's secret
// file is used if this user may read it.

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { dataLayout } from '../files/layout.ts'
import { signToken } from '../platform/token.ts'
import type { Format } from './output/format.ts'
import type { Terminal } from './terminal.ts'

const DEFAULT_BASE_URL = 'http://localhost:4973'
const DEFAULT_DATA_DIRECTORY = '/var/lib/hypeman'
/** A token made from the secret file is made anew for each request. */
const TOKEN_SECONDS = 300

/** The options that every command has. */
export interface GlobalOptions {
  readonly baseUrl?: string
  readonly apiKey?: string
  readonly format?: Format
  readonly debug?: boolean
}

export interface Settings {
  readonly baseUrl: string
  /** Gives the bearer token for a request. */
  readonly token: () => string | undefined
  readonly format: Format
  readonly debug: boolean
}

export async function resolveSettings(options: GlobalOptions, terminal: Pick<Terminal, 'env' | 'home'>): Promise<Settings> {
  const { env } = terminal
  const file = await readSettingsFile(path.join(env['XDG_CONFIG_HOME'] ?? path.join(terminal.home, '.config'), 'hypeman', 'cli.yaml'))
  const baseUrl = parseBaseUrl(options.baseUrl ?? presentIn(env, 'HYPEMAN_BASE_URL') ?? file.baseUrl ?? DEFAULT_BASE_URL)
  const apiKey = options.apiKey ?? presentIn(env, 'HYPEMAN_API_KEY') ?? file.apiKey
  const secret = apiKey === undefined && isLocal(baseUrl) ? await localSecret(env) : undefined
  return {
    baseUrl,
    token: () => (secret === undefined ? apiKey : signToken(secret, { subject: env['USER'] ?? 'local', ttlSeconds: TOKEN_SECONDS })),
    format: options.format ?? 'auto',
    debug: options.debug ?? false,
  }
}

/** The secret of a server on this host: from the environment, or its file in the data directory. Absent if there is none that this user may read. */
export async function localSecret(env: Terminal['env'], dataDirectory?: string): Promise<string | undefined> {
  const fromEnvironment = presentIn(env, 'JWT_SECRET')
  if (fromEnvironment !== undefined) return fromEnvironment
  const text = await readIfThere(dataLayout(dataDirectory ?? presentIn(env, 'DATA_DIR') ?? DEFAULT_DATA_DIRECTORY).secret)
  const secret = text?.trim()
  return secret === '' ? undefined : secret
}

async function readSettingsFile(file: string): Promise<{ readonly baseUrl?: string; readonly apiKey?: string }> {
  const text = await readIfThere(file)
  if (text === undefined) return {}
  const { parse } = await import('yaml')
  const content = parse(text) as unknown
  if (content === null || content === undefined) return {}
  if (typeof content !== 'object') throw new Error(`${file} holds no settings: write lines such as base_url: ${DEFAULT_BASE_URL}`)
  const textOf = (key: string): string | undefined => {
    const value = (content as Readonly<Record<string, unknown>>)[key]
    if (value === undefined || value === null || value === '') return undefined
    if (typeof value !== 'string') throw new Error(`${key} in ${file} is not text`)
    return value
  }
  const baseUrl = textOf('base_url')
  const apiKey = textOf('api_key')
  return { ...(baseUrl === undefined ? {} : { baseUrl }), ...(apiKey === undefined ? {} : { apiKey }) }
}

/** A file that is absent, or another user's, is as good as none. */
async function readIfThere(file: string): Promise<string | undefined> {
  return await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'EACCES' || error.code === 'ENOTDIR') return undefined
    throw error
  })
}

function parseBaseUrl(text: string): string {
  const url = URL.parse(text)
  if (url === null || (url.protocol !== 'http:' && url.protocol !== 'https:'))
    throw new Error(`'${text}' is not the address of a server: give one such as ${DEFAULT_BASE_URL}`)
  return text.replace(/\/+$/, '')
}

function isLocal(baseUrl: string): boolean {
  const { hostname } = new URL(baseUrl)
  return hostname === 'localhost' || hostname === '[::1]' || /^127\.\d+\.\d+\.\d+$/.test(hostname)
}

/** An empty variable counts as not set. */
function presentIn(env: Terminal['env'], name: string): string | undefined {
  const value = env[name]
  return value === undefined || value === '' ? undefined : value
}
