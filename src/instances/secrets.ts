// Secret environment variables: sealed in the record, shown nowhere, and not handed on to forks of others unless their owner said so (docs/secrets.md).
// A block for each subject that gave some: secrets belong to who gave them, also in a fork of somebody else's.

import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import { sealedText, type Sealer } from '../platform/sealing.ts'

export const secretBlock = z
  .object({
    /** The subject of the token with which they were given. */
    owner: z.string(),
    /** Forks made by others have them, too. */
    inherit: z.boolean(),
    /** In order. */
    names: z.array(z.string()).readonly(),
    /** The values by name, as JSON; bound to all of the above. */
    sealed: sealedText,
  })
  .readonly()

export type SecretBlock = z.infer<typeof secretBlock>

type Variables = Readonly<Record<string, string>>

/** What an instance has of both kinds of variables. */
export interface Environment {
  readonly env: Variables
  readonly secrets: readonly SecretBlock[]
}

/** Variables to add or to give other values; those not named stay. */
export interface EnvironmentChange {
  readonly env?: Variables | undefined
  readonly secretEnv?: Variables | undefined
  /** Whether forks of others have the secrets of whoever asks; undefined: as before, at first not. */
  readonly inherit?: boolean | undefined
}

/** `invalid_request` for a name of both kinds, `forbidden` for a secret of somebody else's. `by` is who asks. */
export function changedEnvironment(sealer: Sealer, before: Environment, change: EnvironmentChange, by: string): Environment {
  const { env = {}, secretEnv = {}, inherit } = change
  const [secretNames, isSecret] = [Object.keys(secretEnv), namesOf(before.secrets)]
  for (const name of Object.keys(env)) {
    if (Object.hasOwn(secretEnv, name)) throw invalid(`secret_env.${name}: it is in env, too; give it once`)
    if (isSecret.has(name)) throw invalid(`env.${name}: it is a secret here; change it with secret_env`)
  }
  const ofOthers = before.secrets.filter(({ owner }) => owner !== by)
  for (const { owner, names } of ofOthers)
    for (const name of names)
      if (Object.hasOwn(secretEnv, name))
        throw new HypemanError('forbidden', `secret_env.${name}: it is a secret of ${owner}; only they can change it`)
  // What was an ordinary variable becomes secret: its value must not stay readable beside it.
  const plain = Object.entries({ ...before.env, ...env }).filter(([name]) => !Object.hasOwn(secretEnv, name))
  if (secretNames.length === 0 && inherit === undefined) return { env: Object.fromEntries(plain), secrets: before.secrets }
  const own = before.secrets.find(({ owner }) => owner === by)
  if (own === undefined && secretNames.length === 0)
    throw invalid(`inherit_secrets: ${by} has given this instance no secrets; give some with secret_env`)
  // Given all anew, the old values need not be opened: that is how secrets whose key is lost are replaced.
  const isOpened = own?.names.some((name) => !Object.hasOwn(secretEnv, name)) ?? false
  const values = { ...(own === undefined || !isOpened ? {} : valuesOf(sealer, own)), ...secretEnv }
  const block = sealBlock(sealer, { owner: by, inherit: inherit ?? own?.inherit ?? false }, values)
  return { env: Object.fromEntries(plain), secrets: [...ofOthers, block] }
}

/** All secret variables with their values. */
export function openSecrets(sealer: Sealer, blocks: readonly SecretBlock[]): Variables {
  return Object.assign({}, ...blocks.map((block) => valuesOf(sealer, block))) as Variables
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
    const whose = withheld.map(({ owner, names }) => `${names.join(', ')} of ${owner}`).join('; ')
    throw new HypemanError(
      'forbidden',
      `the memory of ${source.name} holds secrets that ${by} may not have (${whose}); fork it with target_state Stopped, which goes without memory and secrets, or have their owner make another snapshot, of an instance with inherit_secrets`,
    )
  }
  return kept
}

export function namesOf(blocks: readonly SecretBlock[]): ReadonlySet<string> {
  return new Set(blocks.flatMap(({ names }) => names).toSorted())
}

function sealBlock(sealer: Sealer, { owner, inherit }: Pick<SecretBlock, 'owner' | 'inherit'>, values: Variables): SecretBlock {
  const names = Object.keys(values).toSorted()
  return { owner, inherit, names, sealed: sealer.seal(JSON.stringify(values), boundTo({ owner, inherit, names })) }
}

/** A record that was edited so that others may have its secrets opens no more. */
function boundTo({ owner, inherit, names }: Pick<SecretBlock, 'owner' | 'inherit' | 'names'>): string {
  return JSON.stringify(['secret environment', owner, inherit, names])
}

function valuesOf(sealer: Sealer, block: SecretBlock): Variables {
  const values = openBlock(sealer, block)
  if (values !== undefined) return values
  throw new HypemanError(
    'conflict',
    `the secrets ${block.names.join(', ')} of ${block.owner} can't be opened: they were sealed with another key, or their record was changed; give the server the key of before as SECRETS__PREVIOUS_KEY, put the file secrets-key back into its data directory, or give all of them anew`,
  )
}

const variables = z.record(z.string(), z.string())

function openBlock(sealer: Sealer, block: SecretBlock): Variables | undefined {
  const text = sealer.open(block.sealed, boundTo(block))
  return text === undefined ? undefined : variables.parse(JSON.parse(text))
}

function invalid(message: string): HypemanError {
  return new HypemanError('invalid_request', message)
}
