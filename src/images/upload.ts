// Sends an image that was kept to another registry: with skopeo, which asks first for each blob that is there already, has blobs of the same registry
// mounted, sends the others in streams and the manifest last. Whole blobs are sent again after a broken connection, and what had arrived is not.

import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'
import { hasCredentials } from './credentials.ts'
import type { Reference } from './reference.ts'
import { openRegistryAccess } from './registry-access.ts'
import { lastLine, runTool, ToolError } from '../platform/tool.ts'
import type { KeptImage, RegistryCredentials } from './types.ts'

export interface Upload {
  readonly image: KeptImage
  /** With a tag. */
  readonly target: Reference
  readonly credentials: RegistryCredentials | undefined
  /** Over plain HTTP, also to other machines. */
  readonly insecure: boolean
  /** The caller's own staged directory. */
  readonly work: string
  readonly signal: AbortSignal
}

/** Before each further attempt after a network error, in milliseconds. Skopeo's own attempts leave out errors that pass, such as a broken pipe. */
const PAUSES_MS = [1_000, 2_000, 4_000]
/** What hangs is ended when even a slow line would be done: after so many milliseconds, and what the layers take at so many bytes a second. */
const LONGEST_MS = 5 * 60_000
const SLOWEST_BYTES_PER_SECOND = 50_000
/** Of Node's timers, in milliseconds: some 24 days. */
const LONGEST_TIMER_MS = 2 ** 31 - 1

/** Resolves once the target names the image. */
export async function uploadImage({ image, target, credentials, insecure, work, signal }: Upload): Promise<void> {
  await using access = await openRegistryAccess(work, target, credentials, { upload: true, insecure })
  const limitMs = Math.min(LONGEST_MS + Math.ceil((1_000 * image.layerBytes) / SLOWEST_BYTES_PER_SECOND), LONGEST_TIMER_MS)
  const copy = (): Promise<unknown> =>
    runTool(
      'skopeo',
      [
        ...['--tmpdir', work, 'copy', '--quiet', '--preserve-digests'],
        ...[`--dest-tls-verify=${access.tlsVerify}`, `dir:${image.directory}`, access.address({ tag: target.tag ?? 'latest' })],
      ],
      { cwd: work, signal, env: access.env, inherit: access.inherit, timeoutMs: limitMs },
    )
  for (const pauseMs of [...PAUSES_MS, undefined]) {
    try {
      await copy()
      return
    } catch (error) {
      if (pauseMs === undefined || !mayPass(error)) throw explainUpload(error, target, credentials)
      await delay(pauseMs, undefined, { signal })
    }
  }
}

/** What was said by the network, or by a registry that is not there for now. */
const ofNetwork =
  /connection re(?:fused|set)|broken pipe|use of closed network connection|i\/o timeout|network is unreachable|no route to host|EOF"?$|status code 50[234]/im

/** True of a failure that another attempt may not meet. */
export function mayPass(error: unknown): boolean {
  return error instanceof ToolError && !error.timedOut && ofNetwork.test(error.said)
}

/** What a failure of skopeo means to who asked for the push. */
export function explainUpload(error: unknown, target: Reference, credentials: RegistryCredentials | undefined): unknown {
  if (!(error instanceof ToolError)) return error
  const { said } = error
  const { domain, name } = target
  const because = { cause: error }
  if (error.timedOut)
    return new HypemanError(
      'registry_unavailable',
      `the registry ${domain} did not take ${name} in the time of a line of ${SLOWEST_BYTES_PER_SECOND / 1_000} kB/s`,
      because,
    )
  if (/toomanyrequests|too many requests|status code 429/i.test(said))
    return new HypemanError('rate_limited', `the registry ${domain} takes no more requests for now; push again later`, because)
  if (/unauthorized|authentication required|denied|forbidden|invalid username|incorrect username|status code 40[13]/i.test(said))
    return new HypemanError(
      'invalid_request',
      hasCredentials(credentials)
        ? `credentials: the registry ${domain} refuses them for ${name}; check them, and that they may push there`
        : `the registry ${domain} wants other credentials than the server has for ${name}; give some that may push there`,
      because,
    )
  if (/server gave HTTP response to HTTPS client/i.test(said))
    return new HypemanError(
      'registry_unavailable',
      `the registry ${domain} speaks plain HTTP; push with insecure if you trust the way there`,
      because,
    )
  if (ofNetwork.test(said) || /dial tcp|no such host/i.test(said))
    return new HypemanError('registry_unavailable', `the registry ${domain} can't be reached for ${name}: ${reasonOf(said)}`, because)
  if (/digest did not match|digest mismatch|size mismatch|no such file or directory/i.test(said))
    return new HypemanError(
      'conflict',
      `what was kept of the image is damaged: ${reasonOf(said)}; delete the image and pull it again`,
      because,
    )
  return new HypemanError('registry_unavailable', `the registry ${domain} refuses ${name}: ${reasonOf(said)}`, because)
}

function reasonOf(said: string): string {
  return lastLine(said).replace(
    /^(?:trying to reuse|writing|copying|uploading) (?:blob|manifest|config)[^:]*(?:sha256:[0-9a-f]+)?[^:]*: /i,
    '',
  )
}
