// Finds out what a reference names in its registry right now: the manifest of the image for the platform. Fetches no layers.

import { HypemanError } from '../api/errors.ts'
import { parseConfig } from './config.ts'
import { choosePlatform, digestOf, parseManifest, platformsOf, type ImageManifest } from './manifest.ts'
import type { Reference } from './reference.ts'
import { explainRegistry, openRegistryAccess, type RegistryAccess, type Selector } from './registry-access.ts'
import { runTool } from '../platform/tool.ts'
import type { RegistryCredentials } from './types.ts'

export interface ResolvedImage {
  /** Of the manifest for the platform. */
  readonly digest: string
  readonly manifest: ImageManifest
}

export interface ResolveRequest {
  readonly reference: Reference
  readonly platform: string
  readonly credentials: RegistryCredentials | undefined
  /** The caller's own staged directory. */
  readonly directory: string
  readonly signal: AbortSignal
}

/** How long a registry may take for one answer, in milliseconds. */
const ANSWER_LIMIT_MS = 20_000

/** `not_found`, `platform_not_available`, `rate_limited`, `registry_unavailable`, or `invalid_request` for refused credentials. */
export async function resolveImage(request: ResolveRequest): Promise<ResolvedImage> {
  const { reference, platform } = request
  await using access = await openRegistryAccess(request.directory, reference, request.credentials)
  const selector: Selector = reference.digest === undefined ? { tag: reference.tag ?? 'latest' } : { digest: reference.digest }
  const bytes = await inspect(request, access, selector, [])
  const top = parseManifest(bytes, `the manifest of ${reference.name}`)
  if (top.kind === 'image') {
    const digest = digestOf(bytes)
    parseConfig(await inspect(request, access, { digest }, ['--config']), platform, reference.name)
    return { digest, manifest: top }
  }
  const chosen = choosePlatform(top, platform)
  if (chosen === undefined)
    throw new HypemanError(
      'platform_not_available',
      `the image ${reference.name} is not published for ${platform}; it is for ${platformsOf(top)}`,
    )
  const manifest = parseManifest(await inspect(request, access, chosen, []), `the manifest of ${reference.name} for ${platform}`)
  if (manifest.kind === 'index')
    throw new HypemanError('invalid_archive', `the image ${reference.name} is an index of indexes; pull one of them by digest`)
  return { digest: chosen.digest, manifest }
}

async function inspect(request: ResolveRequest, access: RegistryAccess, selector: Selector, options: readonly string[]): Promise<Buffer> {
  const { reference, directory, signal } = request
  try {
    // What it tells of itself is the only sign of a registry that puts it off until it is out of time.
    return await runTool(
      'skopeo',
      ['--debug', '--tmpdir', directory, 'inspect', '--raw', ...options, `--tls-verify=${access.tlsVerify}`, access.address(selector)],
      { cwd: directory, signal, env: access.env, inherit: access.inherit, timeoutMs: ANSWER_LIMIT_MS },
    )
  } catch (error) {
    throw explainRegistry(error, reference, request.credentials)
  }
}
