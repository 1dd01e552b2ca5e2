// Image references as people type them, and their one normal form: what Docker understands, and nothing else. Pure.

import { HypemanError } from '../api/errors.ts'

export interface Reference {
  /** Host of the registry, with a port if it was given: `docker.io`, `localhost:5000`. */
  readonly domain: string
  /** Path within the registry: `library/alpine`. */
  readonly path: string
  /** Set unless there is a digest, which then says it all. */
  readonly tag: string | undefined
  readonly digest: string | undefined
  /** `domain/path`. */
  readonly repository: string
  /** Normal form: `docker.io/library/alpine:latest`, `docker.io/library/alpine@sha256:…`. */
  readonly name: string
}

const DEFAULT_DOMAIN = 'docker.io'
/** Docker's limit for domain and path together, in characters. */
const LONGEST_REPOSITORY = 255

const domainPattern =
  /^(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?$/
const pathPattern = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/
const tagPattern = /^\w[\w.-]{0,127}$/
const digestPattern = /^sha256:[0-9a-f]{64}$/

/** `invalid_name` for what is no reference. A tag beside a digest is dropped, as the digest decides. */
export function parseReference(text: string): Reference {
  const at = text.indexOf('@')
  const digest = at < 0 ? undefined : text.slice(at + 1)
  if (digest !== undefined && !isDigest(digest))
    throw invalid(text, `${JSON.stringify(digest)} is no digest; one is sha256: and 64 lower-case hexadecimal digits`)
  const named = at < 0 ? text : text.slice(0, at)
  const colon = named.lastIndexOf(':')
  const tag = colon > named.lastIndexOf('/') ? named.slice(colon + 1) : undefined
  if (tag !== undefined && !tagPattern.test(tag))
    throw invalid(text, `${JSON.stringify(tag)} is no tag; one is at most 128 letters, digits and _ . -`)
  const { domain, path } = splitDomain(tag === undefined ? named : named.slice(0, colon))
  if (!domainPattern.test(domain)) throw invalid(text, `${JSON.stringify(domain)} is no registry host`)
  if (!pathPattern.test(path))
    throw invalid(text, `${JSON.stringify(path)} is no repository; one is lower-case letters, digits and single . _ - between them`)
  if (/^[0-9a-f]{64}$/.test(named)) throw invalid(text, 'it looks like a bare digest; put sha256: before it')
  const repository = `${domain}/${path}`
  if (repository.length > LONGEST_REPOSITORY) throw invalid(text, `the repository is longer than ${LONGEST_REPOSITORY} characters`)
  if (digest !== undefined) return { domain, path, tag: undefined, digest, repository, name: `${repository}@${digest}` }
  const shown = tag ?? 'latest'
  return { domain, path, tag: shown, digest, repository, name: `${repository}:${shown}` }
}

export function isDigest(text: string): boolean {
  return digestPattern.test(text)
}

/** The hexadecimal digits of a digest, for names on disk. */
export function digestHex(digest: string): string {
  return digest.slice(digest.indexOf(':') + 1)
}

/** True if Docker would speak plain HTTP to the host: it is this machine. */
export function isLoopback(domain: string): boolean {
  const host = domain.replace(/:\d+$/, '')
  return host === 'localhost' || host === '[::1]' || /^127(?:\.\d{1,3}){3}$/.test(host)
}

// The part before the first slash is a host if it can't be a path component, or is `localhost`.
function splitDomain(repository: string): { domain: string; path: string } {
  const slash = repository.indexOf('/')
  const first = repository.slice(0, Math.max(slash, 0))
  const isHost = slash >= 0 && (/[.:[]/.test(first) || first === 'localhost' || first !== first.toLowerCase())
  const domain = isHost ? first : DEFAULT_DOMAIN
  const path = isHost ? repository.slice(slash + 1) : repository
  if (domain !== DEFAULT_DOMAIN && domain !== 'index.docker.io') return { domain, path }
  return { domain: DEFAULT_DOMAIN, path: path.includes('/') ? path : `library/${path}` }
}

function invalid(text: string, why: string): HypemanError {
  return new HypemanError('invalid_name', `invalid image reference ${JSON.stringify(text)}: ${why}`)
}
