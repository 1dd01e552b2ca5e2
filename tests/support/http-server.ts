// The real HTTP server over fake services, listening on a free port of this machine.

import { setTimeout as delay } from 'node:timers/promises'
import type { AddressInfo } from 'node:net'
import { Writable } from 'node:stream'
import { Hypeman } from '@onkernel/hypeman'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { WebSocket } from 'ws'
import { signToken } from '../../src/platform/token.ts'
import { createAuthenticator } from '../../src/server/auth.ts'
import { createHttpServer, type HttpServerOptions } from '../../src/server/http.ts'
import type { HttpLimits } from '../../src/server/limits.ts'
import { createFakeServices, type FakeServices } from './fake-services.ts'

const secret = 'a secret for tests'

/** None that a test meets by chance. */
const wideLimits: HttpLimits = { headersMs: 60_000, bodyMs: 60_000, keepAliveMs: 72_000, connections: 4_096, streamsPerSubject: 0 }

export interface HttpUnderTest extends AsyncDisposable {
  readonly app: FastifyInstance
  readonly services: FakeServices
  readonly url: string
  readonly token: string
  readonly client: Hypeman
  /** Lines of the log, parsed. */
  readonly log: readonly Record<string, unknown>[]
  /** A request with the token. */
  fetch(path: string, init?: Omit<RequestInit, 'headers'> & { readonly headers?: Readonly<Record<string, string>> }): Promise<Response>
  /** A WebSocket with the token, open or failing to open. */
  open(path: string): WebSocket
  /** Makes the server stop, as at the end of its process. */
  stop(): void
}

/** `options` are added to those of the server. */
export async function serveFakes({
  limits = {},
  ...options
}: Partial<Pick<HttpServerOptions, 'listeners' | 'metrics' | 'requestsPerMinute'>> & {
  /** Those that the test is about. */
  readonly limits?: Partial<HttpLimits>
} = {}): Promise<HttpUnderTest> {
  const services = createFakeServices()
  const log: Record<string, unknown>[] = []
  const stopping = new AbortController()
  const app = await createHttpServer({
    services,
    authenticator: createAuthenticator([secret]),
    log: pino(
      { level: 'info' },
      lines((line) => log.push(JSON.parse(line) as Record<string, unknown>)),
    ),
    version: 'test',
    stopping: stopping.signal,
    limits: { ...wideLimits, ...limits },
    ...options,
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const url = `http://127.0.0.1:${port}`
  const token = tokenWith(undefined)
  return {
    app,
    services,
    url,
    token,
    log,
    client: new Hypeman({ baseURL: url, apiKey: token, maxRetries: 0 }),
    fetch: (path, init = {}) => fetch(`${url}${path}`, { ...init, headers: { authorization: `Bearer ${token}`, ...init.headers } }),
    open: (path) => new WebSocket(`ws://127.0.0.1:${port}${path}`, { headers: { authorization: `Bearer ${token}` } }),
    stop: () => stopping.abort(),
    async [Symbol.asyncDispose]() {
      stopping.abort()
      await app.close()
    },
  }
}

export function tokenWith(scopes: readonly string[] | undefined, subject = 'tests', ttlSeconds = 600): string {
  return signToken(secret, { subject, ttlSeconds, scopes })
}

/** Waits until the condition holds; a failure after `limitMs`. */
export async function until(condition: () => boolean, limitMs = 5_000): Promise<void> {
  const deadline = performance.now() + limitMs
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not so after ${limitMs} ms: ${condition.toString()}`)
    await delay(5)
  }
}

function lines(take: (line: string) => void): Writable {
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString('utf8').split('\n')) if (line !== '') take(line)
      done()
    },
  })
}
