// Lets skopeo use a bearer token without being told it: skopeo takes one as an argument only, which every user of the host could read.
// A loopback server adds the token to what skopeo asks; the first segment of its paths is a secret of this transfer. What skopeo sends is passed on by
// gateway-upload.ts.

import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { atRegistry, passedOn, sendOn, type Behind } from './gateway-upload.ts'
import type { Reference } from './reference.ts'

export interface TokenGateway extends AsyncDisposable {
  /** `127.0.0.1:port/secret`: what stands before the repository's path. */
  readonly prefix: string
}

export interface GatewayOptions {
  /** Whether things may be sent there, too. */
  readonly upload: boolean
  /** Whether the registry is asked over plain HTTP. */
  readonly plain: boolean
}

/** Serves one repository's registry until disposed. */
export async function openTokenGateway(reference: Reference, token: string, { upload, plain }: GatewayOptions): Promise<TokenGateway> {
  const secret = randomBytes(24).toString('hex')
  const host = reference.domain === 'docker.io' ? 'registry-1.docker.io' : reference.domain
  const behind: Behind = { origin: `${plain ? 'http' : 'https'}://${host}`, token, before: `/v2/${secret}/` }
  const server = createServer((request, response) => {
    forward(request, response, behind, upload).catch(() => {
      // skopeo sees a bad gateway or a cut body, and its own error tells the caller.
      if (response.headersSent) response.destroy()
      else response.writeHead(502).end()
    })
  })
  // A layer takes as long as it takes: the registry, or skopeo, ends what hangs.
  server.requestTimeout = 0
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

async function forward(request: IncomingMessage, response: ServerResponse, behind: Behind, upload: boolean): Promise<void> {
  const url = request.url ?? '/'
  const reads = request.method === 'GET' || request.method === 'HEAD'
  if (url === '/v2/') return void response.writeHead(200).end()
  if (!url.startsWith(behind.before) || !(reads || upload)) return void response.writeHead(404).end()
  const wanted = atRegistry(url, behind)
  if (!reads) return await sendOn(request, response, wanted, behind)
  const closed = new AbortController()
  response.once('close', () => closed.abort())
  // Redirects, to where registries keep blobs, are followed here with certificates checked; fetch drops the token for other hosts.
  const answer = await fetch(wanted, {
    method: request.method ?? 'GET',
    headers: { authorization: `Bearer ${behind.token}`, accept: request.headers.accept ?? '*/*', 'accept-encoding': 'identity' },
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
