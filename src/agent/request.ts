// One HTTP request to a guest agent over a stream of its session. Answers come from a guest that is not trusted: they are bounded and checked.

import { request, type ClientRequest, type IncomingMessage } from 'node:http'
import type { Duplex, Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { HypemanError, isHypemanError, type ErrorCode } from '../api/errors.ts'
import type { YamuxSession } from './yamux.ts'

/** Longest JSON answer that is read, in bytes. */
const LONGEST_JSON = 1024 * 1024

export interface GuestRequest {
  readonly method: 'GET' | 'POST' | 'PUT'
  readonly path: string
  readonly json?: unknown
  readonly content?: Readable | undefined
  readonly signal?: AbortSignal | undefined
}

/** Sends a request and returns its answer, status below 400, with the body unread. */
export async function send(session: YamuxSession, options: GuestRequest): Promise<IncomingMessage> {
  options.signal?.throwIfAborted()
  const stream = session.open()
  const abort = (): void => void stream.destroy(options.signal?.reason as Error)
  options.signal?.addEventListener('abort', abort, { once: true })
  stream.once('close', () => options.signal?.removeEventListener('abort', abort))
  try {
    const answer = await exchange(stream, options)
    if ((answer.statusCode ?? 500) >= 400) throw await refusal(answer)
    return answer
  } catch (error) {
    stream.destroy()
    throw errorOf(error, options.signal)
  }
}

/** Sends a request and returns its JSON answer, checked by the schema. */
export async function sendForJson<T>(session: YamuxSession, schema: z.ZodType<T>, options: GuestRequest): Promise<T> {
  const answer = await send(session, options)
  try {
    return parse(schema, await readText(answer), options.path)
  } catch (error) {
    throw errorOf(error, options.signal)
  }
}

/** Sends a request that turns its stream into a channel of its own. */
export async function upgrade(
  session: YamuxSession,
  path: string,
  protocol: string,
  signal: AbortSignal | undefined,
): Promise<{ readonly socket: Duplex; readonly head: Buffer }> {
  signal?.throwIfAborted()
  const stream = session.open()
  const abort = (): void => void stream.destroy(signal?.reason as Error)
  signal?.addEventListener('abort', abort, { once: true })
  const { promise, resolve, reject } = Promise.withResolvers<{ socket: Duplex; head: Buffer }>()
  const asked = request({
    createConnection: () => stream as never,
    method: 'POST',
    path,
    headers: { host: 'guest', connection: 'Upgrade', upgrade: protocol },
  })
  asked.once('upgrade', (_answer, socket, head) => resolve({ socket: socket as Duplex, head }))
  asked.once('response', (answer) => void refusal(answer).then(reject, reject))
  asked.on('error', reject)
  rejectWithoutAnswer(asked, reject)
  asked.end()
  try {
    return await promise
  } catch (error) {
    stream.destroy()
    throw errorOf(error, signal)
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

/** A request may end with neither an answer nor an error, for example after an upgrade that nobody asked for. */
function rejectWithoutAnswer(asked: ClientRequest, reject: (error: Error) => void): void {
  let answered = false
  asked.once('response', () => (answered = true))
  asked.once('close', () => {
    if (!answered) reject(new Error('the request was broken off'))
  })
}

function exchange(stream: Duplex, options: GuestRequest): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>()
  const body = options.json === undefined ? undefined : Buffer.from(JSON.stringify(options.json))
  const headers = {
    host: 'guest',
    ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(body.length) }),
  }
  const asked = request({ createConnection: () => stream as never, method: options.method, path: options.path, headers })
  asked.once('response', resolve)
  asked.on('error', reject)
  rejectWithoutAnswer(asked, reject)
  if (options.content === undefined) asked.end(body)
  // The agent may refuse before it has read everything: then its answer counts, not the broken pipe.
  else pipeline(options.content, asked).catch((error: unknown) => setImmediate(reject, error))
  return promise
}

async function readText(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > LONGEST_JSON) throw new HypemanError('guest_unreachable', `the guest agent's answer is longer than ${LONGEST_JSON} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parse<T>(schema: z.ZodType<T>, text: string, path: string): T {
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    throw new HypemanError('guest_unreachable', `the guest agent's answer to ${path.split('?', 1)[0] ?? ''} can't be understood`, { cause })
  }
}

const refusalBody = z.object({ code: z.string(), message: z.string() })

/** Codes of the agent that callers can do something about; all others are faults of the guest. */
const codes: Readonly<Record<string, ErrorCode>> = {
  not_found: 'not_found',
  is_directory: 'invalid_request',
  not_directory: 'invalid_request',
  unsafe_path: 'invalid_request',
  invalid_request: 'invalid_request',
  conflict: 'conflict',
}

async function refusal(answer: IncomingMessage): Promise<HypemanError> {
  // The agent says in JSON what it refuses; what it has never heard of is answered by its HTTP library.
  if (answer.statusCode === 404 && answer.headers['content-type'] !== 'application/json') {
    answer.resume()
    return new HypemanError('not_supported', "the guest's agent is older than the server and can't do this; stop and start the instance")
  }
  const { code, message } = parse(refusalBody, await readText(answer), 'a request')
  const known = codes[code]
  return known === undefined
    ? new HypemanError('conflict', `the guest could not do it (${code}): ${message}`)
    : new HypemanError(known, message)
}

function errorOf(error: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted === true) return signal.reason
  if (isHypemanError(error)) return error
  return new HypemanError('guest_unreachable', 'the connection to the guest agent broke', { cause: error })
}
