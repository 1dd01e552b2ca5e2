// Requests to the server over the global fetch: JSON, event streams, uploads; one translation of failures.
// Which operations there are: client.ts. Nothing heavy is imported here: the command line's start-up time is its own.

import { Readable } from 'node:stream'
import { ApiError, parseErrorBody, UnreachableError } from './errors.ts'
import { eventData } from './sse.ts'

export interface HttpOptions {
  readonly baseUrl: string
  /** Gives the bearer token of a request, or nothing. */
  readonly token: () => string | undefined
  /** Called with every answer, for those who trace requests or want the body as it came. */
  readonly onAnswer?: ((answer: Answer) => void) | undefined
  /** Called when the caller left before a request that changes something was answered: the server may still do it. */
  readonly onAbandoned?: ((method: Method, path: string) => void) | undefined
}

/** One answered request; `text` is the body as it came, empty for streams. */
export interface Answer {
  readonly method: string
  readonly path: string
  readonly status: number
  readonly ms: number
  readonly text: string
}

export type Query = Readonly<Record<string, string | number | boolean | Readonly<Record<string, string>> | undefined>>

export interface RequestOptions {
  readonly query?: Query | undefined
  readonly body?: unknown
  readonly signal?: AbortSignal | undefined
}

export type Method = 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE'

export class Http {
  readonly #options: HttpOptions

  constructor(options: HttpOptions) {
    this.#options = options
  }

  get baseUrl(): string {
    return this.#options.baseUrl
  }

  get token(): string | undefined {
    return this.#options.token()
  }

  /** Sends a request and returns what the JSON body of its answer says. The server holds its answers to the schemas that `T` comes from. */
  async json<T>(method: Method, path: string, options: RequestOptions = {}): Promise<T> {
    return parseAnswer<T>(path, await this.#text(method, path, options, jsonBody(options.body)))
  }

  /** Sends a request whose answer has no body. */
  async none(method: Method, path: string, options: RequestOptions = {}): Promise<void> {
    await this.#text(method, path, options, jsonBody(options.body))
  }

  /** Streams bytes up; the answer is JSON. */
  async upload<T>(
    method: Method,
    path: string,
    type: string,
    bytes: AsyncIterable<Uint8Array>,
    options: Omit<RequestOptions, 'body'> = {},
  ): Promise<T> {
    const body = { type, bytes: Readable.toWeb(Readable.from(bytes)) as ReadableStream<Uint8Array> }
    return parseAnswer<T>(path, await this.#text(method, path, options, body))
  }

  /** Yields the parsed data of each event of a stream until the server ends it or the signal aborts. */
  async *events<T>(path: string, options: Omit<RequestOptions, 'body'> = {}, method: Method = 'GET'): AsyncGenerator<T> {
    const started = performance.now()
    const response = await this.#send(method, path, options, undefined, 'text/event-stream')
    this.#report(method, path, response.status, started, '')
    if (response.body === null) return
    try {
      for await (const data of eventData(response.body)) yield parseAnswer<T>(path, data)
    } catch (error) {
      if (options.signal?.aborted === true) throw options.signal.reason
      throw error instanceof ApiError || error instanceof UnreachableError
        ? error
        : new UnreachableError(`the connection to ${this.baseUrl} broke while ${path} was read`, { cause: error })
    }
  }

  async #text(method: Method, path: string, options: RequestOptions, body: Body | undefined): Promise<string> {
    const started = performance.now()
    const response = await this.#send(method, path, options, body, 'application/json')
    const text = await response.text()
    this.#report(method, path, response.status, started, text)
    return text
  }

  /** Resolves with an answer below 400; anything else is thrown as an `ApiError` or `UnreachableError`. */
  async #send(method: Method, path: string, options: RequestOptions, body: Body | undefined, accept: string): Promise<Response> {
    const started = performance.now()
    const url = `${this.baseUrl}${path}${queryString(options.query)}`
    const headers = new Headers({ accept })
    const token = this.token
    if (token !== undefined) headers.set('authorization', `Bearer ${token}`)
    const init: RequestInit & { duplex?: 'half' } = { method, headers, ...(options.signal === undefined ? {} : { signal: options.signal }) }
    if (body !== undefined) {
      headers.set('content-type', body.type)
      init.body = body.bytes
      init.duplex = 'half'
    }
    const response = await fetch(url, init).catch((error: unknown) => {
      if (options.signal?.aborted === true) {
        if (method !== 'GET') this.#options.onAbandoned?.(method, path)
        throw options.signal.reason
      }
      throw unreachable(this.baseUrl, error)
    })
    if (response.status < 400) return response
    const text = await response.text()
    this.#report(method, path, response.status, started, text)
    throw new ApiError({ method, path }, response.status, parseErrorBody(response.status, text))
  }

  #report(method: string, path: string, status: number, started: number, text: string): void {
    this.#options.onAnswer?.({ method, path, status, ms: performance.now() - started, text })
  }
}

interface Body {
  readonly type: string
  readonly bytes: string | ReadableStream<Uint8Array>
}

function jsonBody(value: unknown): Body | undefined {
  return value === undefined ? undefined : { type: 'application/json', bytes: JSON.stringify(value) }
}

/** Filters by tag are deep objects: `tags[team]=backend`. */
function queryString(query: Query | undefined): string {
  const parameters = new URLSearchParams()
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value === undefined) continue
    if (typeof value === 'object') for (const [key, inner] of Object.entries(value)) parameters.append(`${name}[${key}]`, inner)
    else parameters.append(name, String(value))
  }
  const text = parameters.toString()
  return text === '' ? '' : `?${text}`
}

function parseAnswer<T>(path: string, text: string): T {
  try {
    return JSON.parse(text) as T
  } catch (cause) {
    throw new UnreachableError(`the answer to ${path} is not JSON: is that a hypeman server?`, { cause })
  }
}

/** fetch hides why in causes; the innermost says it. */
function unreachable(baseUrl: string, error: unknown): UnreachableError {
  let innermost: unknown = error
  while (innermost instanceof Error && innermost.cause !== undefined) innermost = innermost.cause
  if (innermost instanceof AggregateError) innermost = innermost.errors[0]
  const code = innermost instanceof Error && 'code' in innermost && typeof innermost.code === 'string' ? innermost.code : undefined
  const reason = innermost instanceof Error && innermost.message !== '' ? innermost.message : String(error)
  if (code === 'ECONNREFUSED') return new UnreachableError(`no server answers at ${baseUrl} (connection refused)`, { cause: error })
  if (code === 'ENOTFOUND' || code === 'EAI_AGAIN') return new UnreachableError(`the host of ${baseUrl} is not known`, { cause: error })
  if (code === 'UND_ERR_HEADERS_TIMEOUT') return new UnreachableError(`${baseUrl} did not answer in time`, { cause: error })
  return new UnreachableError(`no server answers at ${baseUrl}: ${reason}`, { cause: error })
}
