// Bearer tokens as the server takes them: JWTs (RFC 7519) signed with HS256 under the server's secret. Only made here; they are checked by server/auth.ts.

import { createHmac } from 'node:crypto'

export interface TokenClaims {
  /** Whom the token speaks for. */
  readonly subject: string
  /** How long it is valid, in seconds. */
  readonly ttlSeconds: number
  /** What it allows; everything if absent. */
  readonly scopes?: readonly string[] | undefined
}

export function signToken(secret: string, claims: TokenClaims, now: number = Date.now()): string {
  const issuedAt = Math.floor(now / 1000)
  const payload = {
    sub: claims.subject,
    iat: issuedAt,
    exp: issuedAt + claims.ttlSeconds,
    ...(claims.scopes === undefined ? {} : { permissions: claims.scopes }),
  }
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(payload)}`
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`
}

function encode(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString('base64url')
}
