// A forward proxy on the host, by which guests go out that may not go out themselves: HTTP in absolute form, and tunnels (CONNECT) for everything else on TCP (RFC 9110, 9112).
// Who is no guest of it is not answered. What it connects to is judged by its address (egress-destinations.ts).

import { once } from 'node:events'
import {
  createServer,
  request as httpRequest,
  STATUS_CODES,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type ServerResponse,
} from 'node:http'
import { connect, isIP, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Logger } from 'pino'
import { messageOf } from '../platform/flow.ts'
import type { Resolve } from './egress-destinations.ts'

/** Bounds, so that no guest takes the server's sockets or memory for itself. Times in milliseconds. */
export interface EgressLimits {
  /** Of one guest, into the proxy and as many out of it. */
  readonly connections: number
  readonly headerBytes: number
  /** Until a request is there with all of its headers. */
  readonly headersMs: number
  /** Until somebody must have answered to an attempt to connect. */
  readonly connectMs: number
  /** A connection by which nothing has come or gone for so long is closed. */
  readonly idleMs: number
}

export const egressLimits: EgressLimits = {
  connections: 256,
  headerBytes: 32 * 1024,
  headersMs: 30_000,
  connectMs: 10_000,
  idleMs: 300_000,
}

/** Addresses of one name that are looked at; others are left. */
const MOST_TRIED = 4

export interface EgressProxy extends AsyncDisposable {
  readonly port: number
  /** From now on connections from that address are a guest's. */
  admit(address: string): void
  /** They are nobody's any more: those that are open end at once. */
  dismiss(address: string): void
}

export interface EgressProxyOptions {
  /** Address and port to listen on; port 0: a free one. */
  readonly host: string
  readonly port: number
  readonly resolve: Resolve
  /** Why an address is not connected to; undefined if it is. */
  readonly refusal: (address: string) => Promise<string | undefined>
  readonly log: Logger
  readonly limits?: EgressLimits
}

interface Guest {
  readonly address: string
  readonly inbound: Set<Socket>
  readonly outbound: Set<object>
  readonly gone: AbortController
}

interface Target {
  readonly host: string
  readonly port: number
}

/** What the guest is told instead of what it asked for. */
class Refusal extends Error {
  readonly status: number
  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

/** Rejects if it can't listen there. */
export async function openEgressProxy({
  host,
  port,
  resolve,
  refusal,
  log,
  limits = egressLimits,
}: EgressProxyOptions): Promise<EgressProxy> {
  const guests = new Map<string, Guest>()
  /** Whose a connection is; the signal aborts when either is gone. */
  const connections = new WeakMap<Duplex, { readonly guest: Guest; readonly signal: AbortSignal }>()

  /** A connection to the target, as one of the guest's. */
  const reach = async (guest: Guest, { host: name, port: to }: Target, signal: AbortSignal): Promise<Socket> => {
    if (guest.outbound.size >= limits.connections)
      throw new Refusal(503, `${limits.connections} connections are open already; close some first`)
    const place = {}
    guest.outbound.add(place)
    try {
      const addresses = await allowedOf(name, resolve, refusal)
      signal.throwIfAborted()
      const socket = await connectToFirst(addresses, to, limits, signal)
      socket.once('close', () => guest.outbound.delete(place))
      return socket
    } catch (error) {
      guest.outbound.delete(place)
      throw error
    }
  }

  const server = createServer({
    maxHeaderSize: limits.headerBytes,
    headersTimeout: limits.headersMs,
    connectionsCheckingInterval: Math.max(100, Math.floor(limits.headersMs / 4)),
    // Of whatever length a transfer is: it is idle that it may not be.
    requestTimeout: 0,
    keepAliveTimeout: limits.idleMs,
  })
  server.timeout = limits.idleMs
  server.on('connection', (socket: Socket) => {
    const guest = guests.get(socket.remoteAddress ?? '')
    if (guest === undefined || guest.inbound.size >= limits.connections) {
      socket.resetAndDestroy()
      return
    }
    guest.inbound.add(socket)
    const closed = new AbortController()
    connections.set(socket, { guest, signal: AbortSignal.any([closed.signal, guest.gone.signal]) })
    socket.once('close', () => {
      guest.inbound.delete(socket)
      closed.abort()
    })
  })
  const noted = (guest: Guest, error: unknown): Refusal => {
    const refused = error instanceof Refusal ? error : new Refusal(502, messageOf(error))
    log.debug({ guest: guest.address, status: refused.status, reason: refused.message }, 'a way out was refused')
    return refused
  }

  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const connection = connections.get(request.socket)
    if (connection === undefined) return void request.socket.destroy()
    const { guest, signal } = connection
    forward(request, response, (target) => reach(guest, target, signal)).catch((error: unknown) => {
      if (signal.aborted || response.headersSent) return void request.socket.destroy()
      const { status, message } = noted(guest, error)
      // What else it has to say on this connection is not read: a body of any length may be on its way.
      response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', connection: 'close' }).end(`hypeman: ${message}\n`)
    })
  })
  server.on('connect', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    const connection = connections.get(socket)
    socket.on('error', () => socket.destroy())
    socket.setTimeout(limits.idleMs, () => socket.destroy())
    if (connection === undefined) return void socket.destroy()
    const { guest, signal } = connection
    const tunnel = async (): Promise<void> => {
      const upstream = await reach(guest, tunnelTarget(request.url ?? ''), signal)
      socket.write(`HTTP/1.1 200 ${STATUS_CODES[200]}\r\n\r\n`)
      if (head.length > 0) upstream.write(head)
      join(socket, upstream)
    }
    tunnel().catch((error: unknown) => {
      if (signal.aborted) return void socket.destroy()
      const { status, message } = noted(guest, error)
      const body = `hypeman: ${message}\n`
      const lines = [
        `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}`,
        ...['content-type: text/plain; charset=utf-8', `content-length: ${Buffer.byteLength(body)}`, 'connection: close', '', body],
      ]
      socket.end(lines.join('\r\n'))
      socket.destroySoon()
    })
  })

  server.listen(port, host)
  await once(server, 'listening')
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('a socket of the internet has an address with a port')
  const dismiss = (from: string): void => {
    const guest = guests.get(from)
    guests.delete(from)
    guest?.gone.abort(new Error('the guest is gone'))
    for (const socket of guest?.inbound ?? []) socket.resetAndDestroy()
  }
  return {
    port: address.port,
    admit(from) {
      if (!guests.has(from)) guests.set(from, { address: from, inbound: new Set(), outbound: new Set(), gone: new AbortController() })
    },
    dismiss,
    async [Symbol.asyncDispose]() {
      for (const from of guests.keys()) dismiss(from)
      const closed = once(server, 'close')
      server.close()
      server.closeAllConnections()
      await closed
    },
  }
}

/** Addresses that may be connected to. A `Refusal` if there is none. */
async function allowedOf(name: string, resolve: Resolve, refusal: EgressProxyOptions['refusal']): Promise<readonly string[]> {
  const addresses =
    isIP(name) > 0
      ? [name]
      : await resolve(name).catch((error: unknown) => {
          throw new Refusal(502, `the name ${name} can't be resolved (${messageOf(error)})`)
        })
  // No more of them are judged than are tried: a name may have any number.
  const judged = await Promise.all(addresses.slice(0, MOST_TRIED).map(async (address) => ({ address, reason: await refusal(address) })))
  const allowed = judged.flatMap(({ address, reason }) => (reason === undefined ? [address] : []))
  if (allowed.length > 0) return allowed
  const [first] = judged
  throw new Refusal(403, `${name} is not to be reached by this proxy: ${first?.address} is ${first?.reason}`)
}

async function connectToFirst(addresses: readonly string[], port: number, limits: EgressLimits, signal: AbortSignal): Promise<Socket> {
  const failures: string[] = []
  for (const address of addresses) {
    const deadline = AbortSignal.timeout(limits.connectMs)
    // An address is given, so that nothing is resolved once more. Each direction ends by itself.
    const socket = connect({ host: address, port, allowHalfOpen: true })
    try {
      await once(socket, 'connect', { signal: AbortSignal.any([signal, deadline]) })
      socket.on('error', () => socket.destroy())
      socket.setTimeout(limits.idleMs, () => socket.destroy())
      const end = (): void => void socket.destroy()
      signal.addEventListener('abort', end, { once: true })
      socket.once('close', () => signal.removeEventListener('abort', end))
      return socket
    } catch (error) {
      socket.on('error', () => undefined) // it is given up
      socket.destroy()
      signal.throwIfAborted()
      failures.push(deadline.aborted ? `${address} did not answer within ${limits.connectMs / 1000} s` : messageOf(error))
    }
  }
  throw new Refusal(502, `port ${port} can't be connected to: ${failures.join('; ')}`)
}

/** Leads two connections into each other until both directions have ended. */
function join(one: Socket, other: Socket): void {
  one.pipe(other).pipe(one)
  const endWith = (ended: Socket, left: Socket): void =>
    // What it has sent last may still be on its way into the other.
    void ended.once('close', (hadError: boolean) => (hadError ? left.resetAndDestroy() : left.destroySoon()))
  endWith(one, other)
  endWith(other, one)
}

async function forward(request: IncomingMessage, response: ServerResponse, reach: (target: Target) => Promise<Socket>): Promise<void> {
  const { url, path, target } = forwardTarget(request.url ?? '')
  const socket = await reach(target)
  // With a connection of its own there is no agent, and the other side is told to close it.
  const outgoing = httpRequest({
    createConnection: () => socket,
    method: request.method ?? 'GET',
    path,
    headers: { ...passedOn(request), ...lengthOf(request), host: url.host },
    maxHeaderSize: egressLimits.headerBytes,
  })
  const { promise: answered, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  outgoing.once('response', resolve)
  outgoing.on('error', reject)
  outgoing.once('upgrade', (_head, upgraded) => {
    upgraded.destroy()
    reject(new Refusal(502, 'the server changed to another protocol, which nobody has asked for'))
  })
  outgoing.once('close', () => reject(new Refusal(502, 'the server closed the connection without an answer')))
  // Who answers before it has all of the body may close: the answer counts. A pipeline would end the guest's connection then. Its own end is heard by the signal.
  request.on('error', () => undefined).pipe(outgoing)
  try {
    const incoming = await answered
    response.writeHead(incoming.statusCode ?? 502, incoming.statusMessage ?? '', passedOn(incoming))
    await pipeline(incoming, response)
    discardRest(request)
  } finally {
    outgoing.destroy()
  }
}

/** How long a guest may go on sending what nobody takes any more, in milliseconds. */
const DISCARDED_MS = 5_000

/** Reads on after the answer: who sends all of a body before it reads would lose the answer to a reset. Who does not come to an end is cut off. */
function discardRest(request: IncomingMessage): void {
  if (request.complete) return
  const { socket } = request
  const limit = setTimeout(() => socket.destroy(), DISCARDED_MS)
  for (const emitter of [request, socket]) emitter.once('close', () => clearTimeout(limit))
  request.unpipe()
  request.resume()
}

/** Of this connection, not of what is asked for. */
const ofConnection: ReadonlySet<string> = new Set([
  ...['connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding'],
  // `expect` was answered already.
  ...['upgrade', 'expect'],
])

function passedOn({ headersDistinct: headers }: IncomingMessage): OutgoingHttpHeaders {
  const named = new Set((headers['connection'] ?? []).flatMap((line) => line.split(',')).map((name) => name.trim().toLowerCase()))
  const kept = Object.entries(headers).flatMap(([name, values]) =>
    values === undefined || ofConnection.has(name) || named.has(name)
      ? []
      : [[name, values.length === 1 ? values[0] : [...values]] as const],
  )
  return { ...Object.fromEntries(kept), via: [...(headers['via'] ?? []), '1.1 hypeman'].join(', ') }
}

const mayLackBody: ReadonlySet<string> = new Set(['GET', 'HEAD', 'DELETE', 'OPTIONS', 'TRACE'])

/** How the end of the body is told. */
function lengthOf({ headers, method = 'GET' }: IncomingMessage): OutgoingHttpHeaders {
  if (headers['transfer-encoding'] !== undefined) return { 'transfer-encoding': 'chunked' }
  return headers['content-length'] !== undefined || mayLackBody.has(method) ? {} : { 'content-length': '0' }
}

const HTTP_PORT = 80

function forwardTarget(text: string): { readonly url: URL; readonly path: string; readonly target: Target } {
  const url = URL.canParse(text) ? new URL(text) : undefined
  if (url === undefined || url.protocol !== 'http:')
    throw new Refusal(400, 'this is a proxy: ask it for http://…, and by CONNECT for anything else')
  // As it was sent: URLs write paths in their own way.
  const path = text.replace(/^http:\/\/[^/\\?#]*/i, '').replace(/#.*$/, '')
  return {
    url,
    path: path.startsWith('/') ? path : `/${path}`,
    target: { host: plainHost(url), port: url.port === '' ? HTTP_PORT : Number(url.port) },
  }
}

function tunnelTarget(text: string): Target {
  const [, host = '', port = ''] = /^(\[[^\]]+\]|[^\s:/?#@\\[\]]+):(\d{1,5})$/.exec(text) ?? []
  const url = `http://${host}/`
  if (!URL.canParse(url) || Number(port) < 1 || Number(port) > 65_535)
    throw new Refusal(400, `CONNECT needs a host and a port, such as example.com:443`)
  return { host: plainHost(new URL(url)), port: Number(port) }
}

/** URLs write every form of an address in one way, which is what is judged then: 127.1 and 0x7f000001 as 127.0.0.1. */
function plainHost({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, '$1')
}
