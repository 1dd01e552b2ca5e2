// How much of the server one caller, or all together, may take up, and how long what comes slowly is waited for.

import type { ServerConfig } from '../platform/config.ts'

export interface HttpLimits {
  /** A connection must have said what it asks for in that time, in milliseconds. */
  readonly headersMs: number
  /** JSON must be here in that time, other bodies may not pause for longer, and answers must be taken as fast; in milliseconds. */
  readonly bodyMs: number
  /** A connection that asks for nothing more is kept so long, in milliseconds. */
  readonly keepAliveMs: number
  /** Open at once, streams among them. */
  readonly connections: number
  /** Of one subject: programs, copies, followed logs and events. 0: as many as they like. */
  readonly streamsPerSubject: number
}

/** As the settings have them. */
export function httpLimits({ timeouts, limits }: ServerConfig): HttpLimits {
  return {
    headersMs: timeouts.headers,
    bodyMs: timeouts.body,
    keepAliveMs: timeouts.keep_alive,
    connections: limits.connections,
    streamsPerSubject: limits.streams_per_subject,
  }
}
