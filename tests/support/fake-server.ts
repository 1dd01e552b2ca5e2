// A server that speaks the wire and does what a test tells it: plain answers, event streams, exec and copy over WebSockets. No machine runs behind it.

import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { WebSocketServer, type RawData, type WebSocket } from 'ws'

export interface FakeRequest {
  readonly method: string
  /** Decoded, without the query. */
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: IncomingMessage['headers']
  /** Parsed JSON, or the raw bytes of an upload. */
  readonly body: unknown
  /** Aborts when the caller has gone. */
  readonly gone: AbortSignal
}

export interface FakeAnswer {
  readonly status?: number
  readonly json?: unknown
  readonly text?: string
  readonly events?: AsyncIterable<unknown>
}

type Answerer = (request: FakeRequest) => FakeAnswer | Promise<FakeAnswer>

export interface FakeServer extends AsyncDisposable {
  readonly url: string
  readonly requests: FakeRequest[]
  /** `route` is a method and a decoded path: `GET /instances/web`. The last one told counts. */
  on(route: string, answer: FakeAnswer | Answerer): void
  /** What a WebSocket at a path does, told its first frame. */
  onSocket(path: string, serve: (socket: WebSocket, start: Readonly<Record<string, unknown>>) => void | Promise<void>): void
}

export async function startFakeServer(): Promise<FakeServer> {
  const answers = new Map<string, Answerer>()
  const sockets = new Map<string, Parameters<FakeServer['onSocket']>[1]>()
  const requests: FakeRequest[] = []
  const http = createServer((request, response) => {
    void answer(request, response, answers, requests).catch((error: unknown) =>
      response.destroy(error instanceof Error ? error : undefined),
    )
  })
  const webSockets = new WebSocketServer({ noServer: true })
  http.on('upgrade', (request, socket, head) => {
    const url = new URL(request.url ?? '/', 'http://fake')
    const path = decodeURIComponent(url.pathname)
    const serve = sockets.get(path)
    requests.push({
      method: 'GET',
      path,
      query: url.searchParams,
      headers: request.headers,
      body: undefined,
      gone: new AbortController().signal,
    })
    if (serve === undefined) {
      const body = JSON.stringify({ code: 'invalid_state', message: 'instance must be running (current state: Stopped)' })
      socket.end(
        `HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
      )
      return
    }
    webSockets.handleUpgrade(request, socket, head, (webSocket) => {
      webSocket.once('message', (data) => void serve(webSocket, JSON.parse(frameText(data)) as Readonly<Record<string, unknown>>))
    })
  })
  http.listen(0, '127.0.0.1')
  await once(http, 'listening')
  return {
    url: `http://127.0.0.1:${(http.address() as AddressInfo).port}`,
    requests,
    on: (route, value) => void answers.set(route, typeof value === 'function' ? value : () => value),
    onSocket: (path, serve) => void sockets.set(path, serve),
    async [Symbol.asyncDispose]() {
      for (const client of webSockets.clients) client.terminate()
      http.closeAllConnections()
      http.close()
      await once(http, 'close')
    },
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  answers: ReadonlyMap<string, Answerer>,
  requests: FakeRequest[],
): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://fake')
  const path = decodeURIComponent(url.pathname)
  const gone = new AbortController()
  response.once('close', () => gone.abort())
  const method = request.method ?? 'GET'
  const seen: FakeRequest = {
    method,
    path,
    query: url.searchParams,
    headers: request.headers,
    body: await bodyOf(request),
    gone: gone.signal,
  }
  requests.push(seen)
  const found = answers.get(`${method} ${path}`)
  const missing: FakeAnswer = { status: 404, json: { code: 'not_found', message: `there is no ${path}; look at the list` } }
  const { status, json, text, events } = found === undefined ? missing : await found(seen)
  if (events === undefined) {
    response.writeHead(status ?? (json === undefined && text === undefined ? 204 : 200), { 'content-type': 'application/json' })
    response.end(text ?? (json === undefined ? undefined : JSON.stringify(json)))
    return
  }
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.flushHeaders()
  for await (const event of events) response.write(`data: ${JSON.stringify(event)}\n\n`)
  response.end()
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
  const bytes = Buffer.concat(chunks)
  if (bytes.length === 0) return undefined
  return request.headers['content-type'] === 'application/json' ? (JSON.parse(bytes.toString('utf8')) as unknown) : bytes
}

/** A frame as text. */
export function frameText(data: RawData): string {
  return (Array.isArray(data) ? Buffer.concat(data) : Buffer.from(data as Buffer)).toString('utf8')
}

/** Events that never end by themselves, until the caller has gone. */
export async function* untilGone(request: FakeRequest, first: readonly unknown[] = []): AsyncGenerator {
  yield* first
  if (!request.gone.aborted) await once(request.gone, 'abort')
}

/** What the wire says of an instance; the rest as given. */
export function fakeInstance(
  name: string,
  rest: Readonly<Record<string, unknown>> = {},
): Readonly<Record<string, unknown>> & { readonly name: string } {
  return {
    id: `id${name.replaceAll('-', '')}`.padEnd(24, '0'),
    name,
    image: 'docker.io/library/alpine:3.20',
    state: 'Running',
    created_at: new Date().toISOString(),
    expires_at: null,
    hypervisor: 'qemu',
    ...rest,
  }
}
