// Secret environment variables and files: sealed in the record, shown nowhere, and not handed on to forks of others unless their owner said so (docs/secrets.md).
// A block for each subject that gave some: secrets belong to who gave them, also in a fork of somebody else's.

import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import { MOST_SECRET_FILE_BYTES, MOST_SECRET_FILES } from '../api/secret-files.ts'
import { sealedText, type Sealer } from '../platform/sealing.ts'

export const secretBlock = z
  .object({
    /** The subject of the token with which they were given. */
    owner: z.string(),
    /** Forks made by others have them, too. */
    inherit: z.boolean(),
    /** Of variables, in order. */
    names: z.array(z.string()).readonly(),
    /** Files, in the order of their names. How long they are is known without opening them. */
    files: z.array(z.object({ name: z.string(), bytes: z.int().nonnegative() }).readonly()).readonly(),
    /** The variables and the files by name, as JSON; bound to all of the above. */
    sealed: sealedText,
  })
  .readonly()

export type SecretBlock = z.infer<typeof secretBlock>

type Texts = Readonly<Record<string, string>>

/** What secrets are, opened: values of variables and contents of files, by name. */
export interface Secrets {
  readonly env: Texts
  readonly files: Texts
}

/** What an instance has of both kinds of variables, and of secret files. */
export interface Environment {
  readonly env: Texts
  readonly secrets: readonly SecretBlock[]
}

/** Variables and secret files to add or to give other values; those not named stay. */
export interface EnvironmentChange {
  readonly env?: Texts | undefined
  readonly secretEnv?: Texts | undefined
  readonly secretFiles?: Texts | undefined
  /** Whether forks of others have the secrets of whoever asks; undefined: as before, at first not. */
  readonly inherit?: boolean | undefined
}

/** Whether a change names anything to be added or changed. */
export function isGiven({ env, secretEnv, secretFiles }: EnvironmentChange): boolean {
  return [env, secretEnv, secretFiles].some((texts) => Object.keys(texts ?? {}).length > 0)
}

/** `invalid_request` for a name of both kinds and for more files than fit, `forbidden` for a secret of somebody else's. `by` is who asks. */
export function changedEnvironment(sealer: Sealer, before: Environment, change: EnvironmentChange, by: string): Environment {
  const { env = {}, secretEnv = {}, secretFiles = {}, inherit } = change
  const isSecret = namesOf(before.secrets)
  for (const name of Object.keys(env)) {
    if (Object.hasOwn(secretEnv, name)) throw invalid(`secret_env.${name}: it is in env, too; give it once`)
    if (isSecret.has(name)) throw invalid(`env.${name}: it is a secret here; change it with secret_env`)
  }
  const ofOthers = before.secrets.filter(({ owner }) => owner !== by)
  for (const { owner, names, files } of ofOthers) {
    const taken =
      names.filter((name) => Object.hasOwn(secretEnv, name)).map((name) => `secret_env.${name}`)[0] ??
      files.filter(({ name }) => Object.hasOwn(secretFiles, name)).map(({ name }) => `secret_files.${name}`)[0]
    if (taken !== undefined) throw new HypemanError('forbidden', `${taken}: it is a secret of ${owner}; only they can change it`)
  }
  // What was an ordinary variable becomes secret: its value must not stay readable beside it.
  const plain = Object.fromEntries(Object.entries({ ...before.env, ...env }).filter(([name]) => !Object.hasOwn(secretEnv, name)))
  const hasSecrets = isGiven({ secretEnv, secretFiles })
  if (!hasSecrets && inherit === undefined) return { env: plain, secrets: before.secrets }
  const own = before.secrets.find(({ owner }) => owner === by)
  if (own === undefined && !hasSecrets)
    throw invalid(`inherit_secrets: ${by} has given this instance no secrets; give some with secret_env or secret_files`)
  // Given all anew, the old values need not be opened: that is how secrets whose key is lost are replaced.
  const isOpened =
    own !== undefined &&
    !(own.names.every((name) => Object.hasOwn(secretEnv, name)) && own.files.every(({ name }) => Object.hasOwn(secretFiles, name)))
  const old = isOpened ? valuesOf(sealer, own) : { env: {}, files: {} }
  const values = { env: { ...old.env, ...secretEnv }, files: { ...old.files, ...secretFiles } }
  const secrets = [...ofOthers, sealBlock(sealer, { owner: by, inherit: inherit ?? own?.inherit ?? false }, values)]
  demandRoom(secrets)
  return { env: plain, secrets }
}

/** A guest is told all of its files in one message, and holds them in its memory. */
function demandRoom(blocks: readonly SecretBlock[]): void {
  const files = blocks.flatMap((block) => block.files)
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0)
  if (files.length > MOST_SECRET_FILES)
    throw invalid(`secret_files: the instance would have ${files.length} of them; it can have ${MOST_SECRET_FILES}`)
  if (bytes > MOST_SECRET_FILE_BYTES)
    throw invalid(`secret_files: they would have ${bytes} bytes together; an instance can have ${MOST_SECRET_FILE_BYTES}`)
}

/** All secrets with their values. */
export function openSecrets(sealer: Sealer, blocks: readonly SecretBlock[]): Secrets {
  const opened = blocks.map((block) => valuesOf(sealer, block))
  const together = (texts: readonly Texts[]): Texts => Object.assign({}, ...texts) as Texts
  return { env: together(opened.map(({ env }) => env)), files: together(opened.map(({ files }) => files)) }
}

/**
 * What a fork has of its source's secrets when `by` makes it. A fork without the memory goes without those of others; the memory holds what programs know, so that a
 * fork with it is `forbidden`.
 */
export function inheritedSecrets(
  source: Pick<Environment, 'secrets'> & { readonly name: string },
  by: string,
  withMemory: boolean,
): readonly SecretBlock[] {
  const kept = source.secrets.filter(({ owner, inherit }) => owner === by || inherit)
  const withheld = source.secrets.filter((block) => !kept.includes(block))
  if (withMemory && withheld.length > 0) {
    const whose = withheld.map(wordsOf).join('; ')
    throw new HypemanError(
      'forbidden',
      `the memory of ${source.name} holds secrets that ${by} may not have (${whose}); fork it with target_state Stopped, which goes without memory and secrets, or have their owner make another snapshot, of an instance with inherit_secrets`,
    )
  }
  return kept
}

/** Of variables. */
export function namesOf(blocks: readonly SecretBlock[]): ReadonlySet<string> {
  return new Set(blocks.flatMap(({ names }) => names).toSorted())
}

export function fileNamesOf(blocks: readonly SecretBlock[]): readonly string[] {
  return blocks.flatMap(({ files }) => files.map(({ name }) => name)).toSorted()
}

function wordsOf({ owner, names, files }: SecretBlock): string {
  return `${[...names, ...files.map(({ name }) => `the file ${name}`)].join(', ')} of ${owner}`
}

type Bound = Omit<SecretBlock, 'sealed'>

function sealBlock(sealer: Sealer, { owner, inherit }: Pick<SecretBlock, 'owner' | 'inherit'>, values: Secrets): SecretBlock {
  const names = Object.keys(values.env).toSorted()
  const files = Object.entries(values.files)
    .map(([name, text]) => ({ name, bytes: Buffer.byteLength(text) }))
    .toSorted((one, other) => (one.name < other.name ? -1 : 1))
  const bound = { owner, inherit, names, files }
  return { ...bound, sealed: sealer.seal(JSON.stringify(values), boundTo(bound)) }
}

/** A record that was edited so that others may have its secrets opens no more. */
function boundTo({ owner, inherit, names, files }: Bound): string {
  return JSON.stringify(['secrets', owner, inherit, names, files.map(({ name, bytes }) => [name, bytes])])
}

function valuesOf(sealer: Sealer, block: SecretBlock): Secrets {
  const values = openBlock(sealer, block)
  if (values !== undefined) return values
  throw new HypemanError(
    'conflict',
    `the secrets ${wordsOf(block)} can't be opened: they were sealed with another key, or their record was changed; give the server the key of before as SECRETS__PREVIOUS_KEY, put the file secrets-key back into its data directory, or give all of them anew`,
  )
}

const texts = z.record(z.string(), z.string())
const secrets = z.object({ env: texts, files: texts })

function openBlock(sealer: Sealer, block: SecretBlock): Secrets | undefined {
  const text = sealer.open(block.sealed, boundTo(block))
  return text === undefined ? undefined : secrets.parse(JSON.parse(text))
}

function invalid(message: string): HypemanError {
  return new HypemanError('invalid_request', message)
}
