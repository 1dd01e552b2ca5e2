// How skopeo reaches the repository of one pull or push: its address, TLS, credentials. And what its complaints about a pull mean (of a push: upload.ts).

import { HypemanError } from '../api/errors.ts'
import { hasCredentials, lendCredentials } from './credentials.ts'
import { isLoopback, type Reference } from './reference.ts'
import { openTokenGateway } from './token-gateway.ts'
import { lastLine, ToolError } from '../platform/tool.ts'
import type { RegistryCredentials } from './types.ts'

export interface RegistryAccess extends AsyncDisposable {
  /** skopeo's address of the repository's image with a tag or digest. */
  address(selector: Selector): string
  readonly tlsVerify: boolean
  readonly env: Readonly<Record<string, string>>
  /** File descriptors that skopeo is started with. */
  readonly inherit: readonly number[]
}

export type Selector = { readonly tag: string } | { readonly digest: string }

export interface AccessOptions {
  /** Whether things are sent there, too. */
  readonly upload?: boolean
  /** Over plain HTTP, also to other machines. */
  readonly insecure?: boolean
}

/** `directory` is the transfer's own. */
export async function openRegistryAccess(
  directory: string,
  reference: Reference,
  credentials: RegistryCredentials | undefined,
  { upload = false, insecure = false }: AccessOptions = {},
): Promise<RegistryAccess> {
  const plain = insecure || isLoopback(reference.domain)
  const token = credentials?.registryToken ?? ''
  await using undo = new AsyncDisposableStack()
  const gateway = token === '' ? undefined : undo.use(await openTokenGateway(reference, token, { upload, plain }))
  const lent = undo.use(await lendCredentials(directory, reference, gateway === undefined ? credentials : undefined))
  const repository = gateway === undefined ? reference.repository : `${gateway.prefix}/${reference.path}`
  const owned = undo.move()
  return {
    address: (selector) => ('digest' in selector ? `docker://${repository}@${selector.digest}` : `docker://${repository}:${selector.tag}`),
    tlsVerify: gateway === undefined && !plain,
    env: lent.env,
    inherit: lent.inherit,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** A line of what skopeo tells of its own work (`--debug`). */
function isAside(line: string): boolean {
  return /^time="[^"]*" level=(?:debug|info) /.test(line)
}

/** What a failure of skopeo means to who asked for the image. */
export function explainRegistry(error: unknown, reference: Reference, credentials: RegistryCredentials | undefined): unknown {
  if (!(error instanceof ToolError)) return error
  const lines = error.said.split('\n')
  const said = lines.filter((line) => !isAside(line)).join('\n')
  const reason = lastLine(said).replace(/^Error (?:parsing image name|reading manifest) \S+: /, '')
  if (/manifest unknown|name unknown|repository name not known|does not exist|status code 404|404 \(?Not Found/i.test(said))
    return new HypemanError('not_found', `the registry ${reference.domain} has no image ${reference.name}; check the name`, {
      cause: error,
    })
  const putOff = error.timedOut && lines.some((line) => isAside(line) && /too many requests/i.test(line))
  if (putOff || /toomanyrequests|too many requests|status code 429/i.test(said))
    return new HypemanError('rate_limited', `the registry ${reference.domain} takes no more requests for now; wait, or give credentials`, {
      cause: error,
    })
  if (/unauthorized|authentication required|denied|forbidden|invalid username|incorrect username|status code 40[13]/i.test(said)) {
    // Registries answer alike for what is private and for what does not exist.
    return hasCredentials(credentials)
      ? new HypemanError(
          'invalid_request',
          `credentials: the registry ${reference.domain} refuses them for ${reference.name}; check them`,
          { cause: error },
        )
      : new HypemanError(
          'not_found',
          `the registry ${reference.domain} has no image ${reference.name}, or wants credentials for it; check the name or give credentials`,
          { cause: error },
        )
  }
  if (error.timedOut)
    return new HypemanError('registry_unavailable', `the registry ${reference.domain} did not answer in time for ${reference.name}`, {
      cause: error,
    })
  return new HypemanError('registry_unavailable', `the registry ${reference.domain} can't be asked for ${reference.name}: ${reason}`, {
    cause: error,
  })
}
