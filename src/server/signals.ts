// When reads and waits of a request end early: its caller has gone, or the server stops. Changes never end early.

import type { FastifyReply } from 'fastify'
import { HypemanError } from '../api/errors.ts'

/** Aborts when the connection of the answer is gone or the server stops; its reason is an error for the caller. */
export function untilGone(reply: FastifyReply, stopping: AbortSignal): AbortSignal {
  const gone = new AbortController()
  const leave = (): void => {
    if (!reply.raw.writableFinished) gone.abort(new HypemanError('canceled', 'the caller has gone'))
  }
  if (reply.raw.destroyed) leave()
  else reply.raw.once('close', leave)
  const stopped = new AbortController()
  const stop = (): void => stopped.abort(new HypemanError('canceled', 'the server is stopping; try again when it is back'))
  if (stopping.aborted) stop()
  else stopping.addEventListener('abort', stop, { once: true })
  reply.raw.once('close', () => stopping.removeEventListener('abort', stop))
  return AbortSignal.any([gone.signal, stopped.signal])
}
