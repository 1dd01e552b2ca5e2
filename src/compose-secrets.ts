// The keys that tokens are signed with: which are good, and what is to be said of them when the server starts.

import type { Logger } from 'pino'
import type { DataLayout } from './files/layout.ts'
import type { ServerConfig } from './platform/config.ts'

/** A secret of fewer characters can be guessed. */
const SHORT_SECRET = 16

/** The key of new tokens, then the one before. */
export function secretsOf({ jwt_secret_previous: previous }: ServerConfig, secret: string): readonly string[] {
  return previous === undefined ? [secret] : [secret, previous]
}

export function warnOfSecret(config: ServerConfig, layout: DataLayout, log: Logger): void {
  if (config.jwt_secret === undefined)
    log.warn(
      { secret: layout.secret },
      'no JWT_SECRET is configured: only this host can connect, with tokens made from the key in this file',
    )
  else if (config.jwt_secret.length < SHORT_SECRET)
    log.warn(`JWT_SECRET is shorter than ${SHORT_SECRET} characters and easily guessed; openssl rand -hex 32 makes a good one`)
}
