// Who is calling, and what they may do: bearer tokens (JWT, RFC 7519) under the server's secrets, and scopes.
// Tokens are made elsewhere (platform/token.ts); which scope a route needs stands beside the route.

import { createSecretKey, type KeyObject } from 'node:crypto'
import { jwtVerify, type JWTPayload } from 'jose'
import { HypemanError } from '../api/errors.ts'

type Resource = 'instance' | 'image' | 'volume' | 'snapshot' | 'build' | 'device' | 'ingress'

/** What a token may carry in `permissions`; without that claim, or with `*`, it may do everything. */
export type Scope = `${Resource}:${'read' | 'write' | 'delete'}` | 'resource:read'

/** What a route asks of its caller: a scope, or nothing at all. */
export type Access = Scope | 'public'

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks, once their token was found good. */
    caller: Caller | undefined
  }
}

export interface Caller {
  readonly subject: string
  /** Undefined: everything is allowed. */
  readonly scopes: readonly string[] | undefined
}

/** Both reject with `unauthorized`. */
export interface Authenticator {
  /** For the API: `Bearer <token>`. */
  bearer(authorization: string | undefined): Promise<Caller>
  /** For the registry: `Bearer <token>`, or `Basic` with the token as password or as user name, since container tools know nothing else. */
  registry(authorization: string | undefined): Promise<Caller>
}

/** Tokens whose signature was seen to be right, kept as long as they are valid: looking at it again took half of a short request. */
const MOST_KNOWN = 256

/**
 * Takes tokens signed with any of the secrets, so that a secret can be replaced without a moment when nobody gets in; and those whose time is over, or has
 * not come, by no more than the leeway.
 */
export function createAuthenticator(secrets: readonly string[], leewayMs = 0): Authenticator {
  const keys = secrets.map((secret) => createSecretKey(secret, 'utf8'))
  const known = new Map<string, JWTPayload>()
  const verify = async (token: string): Promise<JWTPayload> => {
    const found = known.get(token)
    if (found !== undefined && (found.exp === undefined || found.exp * 1000 + leewayMs > Date.now())) return found
    known.delete(token)
    const payload = await verifySignature(keys, token, leewayMs / 1000)
    const [oldest] = known.keys()
    if (known.size >= MOST_KNOWN && oldest !== undefined) known.delete(oldest)
    known.set(token, payload)
    return payload
  }
  return {
    bearer: async (authorization) => callerOf(await verify(bearerToken(authorization))),
    async registry(authorization) {
      const pair = basicPair(authorization)
      if (pair === undefined) return callerOf(await verify(bearerToken(authorization)))
      const verified = await Promise.allSettled([pair.password, pair.user].map(verify))
      const good = verified.find((result) => result.status === 'fulfilled')
      if (good === undefined) throw unauthorized('invalid token')
      return callerOf(good.value)
    },
  }
}

export function mayDo(caller: Caller, scope: Scope): boolean {
  return caller.scopes === undefined || caller.scopes.includes('*') || caller.scopes.includes(scope)
}

export function requireScope(caller: Caller, scope: Scope): void {
  if (!mayDo(caller, scope)) throw new HypemanError('forbidden', `missing required scope: ${scope}`)
}

function bearerToken(authorization: string | undefined): string {
  if (authorization === undefined || authorization === '') throw unauthorized('authorization header required')
  const [, token] = /^Bearer +(\S+)\s*$/i.exec(authorization) ?? []
  if (token === undefined) throw unauthorized('invalid authorization header format')
  return token
}

function basicPair(authorization: string | undefined): { readonly user: string; readonly password: string } | undefined {
  const [, encoded] = /^Basic +(\S+)\s*$/i.exec(authorization ?? '') ?? []
  if (encoded === undefined) return undefined
  const text = Buffer.from(encoded, 'base64').toString('utf8')
  const colon = text.indexOf(':')
  return colon < 0 ? { user: text, password: '' } : { user: text.slice(0, colon), password: text.slice(colon + 1) }
}

async function verifySignature(keys: readonly KeyObject[], token: string, clockTolerance: number): Promise<JWTPayload> {
  const causes: unknown[] = []
  for (const key of keys) {
    try {
      return (await jwtVerify(token, key, { algorithms: ['HS256'], clockTolerance })).payload
    } catch (error) {
      causes.push(error) // another secret may have signed it
    }
  }
  throw unauthorized('invalid token', new AggregateError(causes))
}

/** Claims of tokens that guests and image builds carry: good for the registry they were made for, never for the API. */
const registryClaims = ['repos', 'repo_access', 'scope', 'build_id'] as const

function callerOf(payload: JWTPayload): Caller {
  const { sub: subject, permissions } = payload
  if (registryClaims.some((claim) => payload[claim] !== undefined)) throw unauthorized('invalid token type')
  if (subject === undefined || subject === '') throw unauthorized('invalid token')
  if (subject.startsWith('builder-')) throw unauthorized('invalid token type')
  if (permissions === undefined) return { subject, scopes: undefined }
  if (!isListOfText(permissions)) throw unauthorized('invalid token')
  return { subject, scopes: permissions }
}

function isListOfText(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string')
}

function unauthorized(message: string, cause?: unknown): HypemanError {
  return new HypemanError('unauthorized', message, { cause })
}
