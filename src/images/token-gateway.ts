// Lets skopeo use a bearer token without being told it: skopeo takes one as an argument only, which every user of the host could read.
// A loopback server adds the token to what skopeo asks; the first segment of its paths is a secret of this pull.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { isLoopback, type Reference } from './reference.ts'

export interface TokenGateway extends AsyncDisposable {
  /** `127.0.0.1:port/secret`: what stands before the repository's path. */
  readonly prefix: string
}

const passedOn = ['content-type', 'content-length', 'docker-content-digest', 'www-authenticate', 'retry-after']

/** Serves one repository's registry until disposed. */
export async function openTokenGateway(reference: Reference, token: string): Promise<TokenGateway> {
  const secret = randomBytes(24).toString('hex')
  const host = reference.domain === 'docker.io' ? 'registry-1.docker.io' : reference.domain
  const origin = `${isLoopback(reference.domain) ? 'http' : 'https'}://${host}`
  const server = createServer((request, response) => {
    forward(request, response, origin, secret, token).catch(() => {
      // skopeo sees a bad gateway or a cut body, and its own error tells the caller.
      if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('the gateway for the registry token has no port')
  return {
    prefix: `127.0.0.1:${address.port}/${secret}`,
    async [Symbol.asyncDispose]() {
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

async function forward(request: IncomingMessage, response: ServerResponse, origin: string, secret: string, token: string): Promise<void> {
  const url = request.url ?? '/'
  const before = `/v2/${secret}/`
  if (url === '/v2/') return void response.writeHead(200).end()
  if (!url.startsWith(before) || (request.method !== 'GET' && request.method !== 'HEAD')) return void response.writeHead(404).end()
  const closed = new AbortController()
  response.once('close', () => closed.abort())
  // Redirects, to where registries keep blobs, are followed here with certificates checked; fetch drops the token for other hosts.
  const answer = await fetch(`${origin}/v2/${url.slice(before.length)}`, {
    method: request.method,
    headers: { authorization: `Bearer ${token}`, accept: request.headers.accept ?? '*/*', 'accept-encoding': 'identity' },
    signal: closed.signal,
  })
  const headers = passedOn.flatMap((name) => {
    const value = answer.headers.get(name)
    return value === null ? [] : [[name, value] as const]
  })
  response.writeHead(answer.status, Object.fromEntries(headers))
  if (answer.body === null) response.end()
  else await pipeline(Readable.fromWeb(answer.body), response)
}
