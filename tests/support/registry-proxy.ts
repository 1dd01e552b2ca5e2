// Stands before a test registry, counts what is sent there, and holds it back for as long as a test wants. Can ask for a bearer token of its own, and take
// uploads elsewhere than below /v2/, as some registries do.

import { once } from 'node:events'
import { createServer, request as httpRequest, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { pipeline } from 'node:stream/promises'

export interface RegistryProxy extends AsyncDisposable {
  /** `127.0.0.1:port`. */
  readonly host: string
  /** Bytes of blobs that were sent, by request; without empty ones. */
  readonly sent: readonly number[]
  /** What was asked, `PUT /v2/…`. */
  readonly asked: readonly string[]
  /** From now on nothing that is sent, or what else is named, gets through until it is released; what waits then goes on. */
  hold(what?: (asked: string) => boolean): void
  release(): void
  /** The connection of the next thing that is sent breaks. */
  breakNext(): void
  /** How many requests are held. */
  readonly held: number
}

/** Where uploads go on. */
const elsewhere = '/uploads-elsewhere'

export async function startRegistryProxy(
  registry: string,
  options: { readonly token?: string; readonly uploadsElsewhere?: true } = {},
): Promise<RegistryProxy> {
  const sent: number[] = []
  const asked: string[] = []
  let gate: (PromiseWithResolvers<void> & { readonly holds: (asked: string) => boolean }) | undefined
  let held = 0
  let breaks = 0
  const forward = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const what = `${request.method ?? ''} ${request.url ?? ''}`
    asked.push(what)
    if (options.token !== undefined && request.headers.authorization !== `Bearer ${options.token}`) {
      response.writeHead(401, { 'www-authenticate': 'Bearer realm="http://127.0.0.1:1/token",service="test"' }).end()
      return
    }
    if (breaks > 0 && isSent(what)) {
      breaks -= 1
      return void request.socket.resetAndDestroy()
    }
    if (gate?.holds(what) === true) {
      held += 1
      const left = once(response, 'close')
      await Promise.race([gate.promise, left]).finally(() => (held -= 1))
      if (response.destroyed) return
    }
    const { authorization: _token, ...headers } = request.headers
    const place = request.url?.startsWith(`${elsewhere}/`) === true ? request.url.slice(elsewhere.length) : (request.url ?? '/')
    const upstream = httpRequest(`http://${registry}${place}`, {
      method: request.method,
      headers: options.token === undefined ? request.headers : headers,
    })
    response.once('close', () => upstream.destroy())
    let bytes = 0
    request.on('data', (chunk: Buffer) => void (bytes += chunk.length))
    const answered = once(upstream, 'response') as Promise<[IncomingMessage]>
    await Promise.all([pipeline(request, upstream), answered])
    if (bytes > 0 && request.url?.includes('/blobs/') === true) sent.push(bytes)
    const [answer] = await answered
    const { location } = answer.headers
    if (options.uploadsElsewhere === true && location?.includes('/blobs/uploads/') === true) {
      const { pathname, search } = new URL(location, `http://${registry}`)
      answer.headers.location = `${elsewhere}${pathname}${search}`
    }
    response.writeHead(answer.statusCode ?? 500, answer.headers)
    await pipeline(answer, response)
  }
  const server = createServer((request, response) => {
    // Whoever asked sees that it broke off.
    forward(request, response).catch(() => response.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    host: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    sent,
    asked,
    get held() {
      return held
    },
    hold: (holds = isSent) => void (gate ??= { ...Promise.withResolvers<void>(), holds }),
    breakNext: () => void (breaks += 1),
    release() {
      gate?.resolve()
      gate = undefined
    },
    async [Symbol.asyncDispose]() {
      gate?.resolve()
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

function isSent(asked: string): boolean {
  return /^(?:PATCH|PUT) /.test(asked)
}
