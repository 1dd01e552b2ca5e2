// Server-sent events (WHATWG HTML, "Server-sent events"): one JSON value a frame, comments in between so that nobody takes a quiet stream for a dead one.
// Clients parse every `data` line as JSON, so nothing else is ever sent in one. No empty line follows a comment: some clients take each empty line for the
// end of an event, and one without data for JSON that can't be parsed, which ends their stream.

import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'

const HEARTBEAT_MS = 15_000
/** How long the first item may take before the answer begins without it. Until then an error still becomes a proper answer. */
const HEADERS_AFTER_MS = 500

const headers = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-cache',
  connection: 'keep-alive',
  'x-accel-buffering': 'no',
} as const

type Step<T> = Promise<IteratorResult<T, unknown>>

/** Answers with the items of a stream, as fast as the client reads. `items` must end when `signal` aborts. */
export async function sendEvents<T>(
  reply: FastifyReply,
  items: AsyncIterable<T>,
  signal: AbortSignal,
  heartbeatMs = HEARTBEAT_MS,
): Promise<void> {
  const iterator = items[Symbol.asyncIterator]()
  const first: Step<T> = iterator.next()
  const quiet = (await within(first, HEADERS_AFTER_MS)) === undefined
  const frames = Readable.from(framesOf(iterator, first, { quiet, signal, heartbeatMs }), { objectMode: false })
  // A reader who has gone by now leaves frames that never begin and so never end their source, which may hold files open.
  frames.once('close', () => void iterator.return?.().catch((error: unknown) => reply.log.warn({ error }, 'a stream did not end well')))
  void reply.headers(headers).send(frames)
}

async function* framesOf<T>(
  iterator: AsyncIterator<T, unknown>,
  first: Step<T>,
  { quiet, signal, heartbeatMs }: { readonly quiet: boolean; readonly signal: AbortSignal; readonly heartbeatMs: number },
): AsyncGenerator<string> {
  try {
    let step = first
    if (quiet) yield ': ok\n' // the headers go out with the first bytes
    for (;;) {
      const result = await within(step, heartbeatMs)
      if (result === undefined) {
        yield ': ping\n'
        continue
      }
      if (result.done === true) return
      yield `data: ${JSON.stringify(result.value)}\n\n`
      step = iterator.next()
    }
  } catch (error) {
    // What ended because nobody reads any more, or because the server stops, has ended well.
    if (!signal.aborted) throw error
  } finally {
    await iterator.return?.()
  }
}

/** The promise's result, or undefined if it takes longer. */
async function within<T>(promise: Promise<T>, limitMs: number): Promise<T | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<undefined>()
  const timer = setTimeout(() => resolve(undefined), limitMs)
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}
