// A small HTTP client over a unix socket, for the APIs of VMMs: a connection for each request, a limit of time for each answer and of size for what it says.
// It knows nothing of what is asked.

import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'

export interface UnixRequest {
  /** Absolute, and short enough for the kernel. */
  readonly socket: string
  readonly method: 'GET' | 'PUT' | 'PATCH'
  readonly path: string
  /** Sent as JSON; absent: no body. */
  readonly body?: object | undefined
  /** Until the whole answer must be there, in milliseconds. */
  readonly limitMs: number
  readonly signal?: AbortSignal | undefined
}

export interface UnixAnswer {
  readonly status: number
  readonly text: string
}

/** The answer did not come in time. */
export class AnswerTimeout extends Error {
  constructor({ method, path, limitMs }: UnixRequest) {
    super(`${method} ${path} was not answered within ${limitMs / 1000} s`)
    this.name = 'AnswerTimeout'
  }
}

/** More than any VMM has to say, in bytes. */
const LARGEST_ANSWER_BYTES = 8 * 1024 ** 2

/** Sends a request and reads its whole answer, whatever its status. Throws the socket's error, the signal's reason, or `AnswerTimeout`. */
export async function askUnix(asked: UnixRequest): Promise<UnixAnswer> {
  const limit = AbortSignal.timeout(asked.limitMs)
  const signal = asked.signal === undefined ? limit : AbortSignal.any([asked.signal, limit])
  try {
    const answer = await send(asked, signal)
    return { status: answer.statusCode ?? 0, text: await textOf(answer, asked) }
  } catch (error) {
    asked.signal?.throwIfAborted()
    if (limit.aborted) throw new AnswerTimeout(asked)
    throw error
  }
}

/** The error of a socket that is not there, or that nobody listens on any more. */
export function isNotListening(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ECONNREFUSED')
}

/** True if a process listens on a unix socket. */
export async function isListening(socketPath: string): Promise<boolean> {
  const socket = connect({ path: socketPath })
  try {
    await once(socket, 'connect')
    return true
  } catch (error) {
    return !isNotListening(error) // a queue that is full belongs to somebody
  } finally {
    socket.destroy()
  }
}

/** Nothing tells that a process listens: it is tried this often, in milliseconds. */
const LISTENS_POLL_MS = 2

/**
 * Asks a process that has just started until it listens, and returns what it answers then. `ask` is given what is left of the time, in milliseconds; its error may have the socket's as its cause.
 * `host_unavailable` when the time is over, in the name of the process.
 */
export async function firstAnswer<T>(
  ask: (signal: AbortSignal, leftMs: number) => Promise<T>,
  { name, signal, limitMs }: { readonly name: string; readonly signal: AbortSignal; readonly limitMs: number },
): Promise<T> {
  const deadline = performance.now() + limitMs
  for (;;) {
    signal.throwIfAborted()
    const leftMs = Math.max(1, Math.ceil(deadline - performance.now()))
    try {
      return await ask(signal, leftMs)
    } catch (error) {
      signal.throwIfAborted()
      if (!isNotListening(error) && !(error instanceof Error && isNotListening(error.cause))) throw error
      if (performance.now() >= deadline)
        throw new HypemanError('host_unavailable', `${name} did not listen on its socket within ${limitMs / 1000} s`, { cause: error })
    }
    await delay(LISTENS_POLL_MS)
  }
}

function send({ socket, method, path, body }: UnixRequest, signal: AbortSignal): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  const text = body === undefined ? '' : JSON.stringify(body)
  const headers = text === '' ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) }
  // `agent: false`: the connection is closed after the answer.
  const sent = request({
    socketPath: socket,
    method,
    path,
    headers: { host: 'localhost', accept: 'application/json', ...headers },
    agent: false,
    signal,
  })
  sent.once('response', resolve)
  sent.on('error', reject)
  sent.end(text)
  return promise
}

async function textOf(answer: IncomingMessage, { method, path }: UnixRequest): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > LARGEST_ANSWER_BYTES) throw new Error(`the answer to ${method} ${path} is larger than ${LARGEST_ANSWER_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
