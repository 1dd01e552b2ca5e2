// How many streams one subject may have open: each holds a connection, and may hold some MiB that its client has not read.

import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { HypemanError } from '../api/errors.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Goes on until one side ends it. */
    stream?: true
  }
}

/** Counts the streams of the routes that are added from now on, behind the hook that finds out who asks. 0: as many as they like. */
export function limitStreams(api: FastifyInstance, most: number): void {
  if (most === 0) return
  const open = new Map<string, number>()
  api.addHook('onRequest', (request, reply, done) => {
    const subject = request.caller?.subject
    if (request.routeOptions.config.stream !== true || subject === undefined) {
      done()
      return
    }
    const count = open.get(subject) ?? 0
    if (count >= most) {
      done(
        new HypemanError(
          'rate_limited',
          `${subject} has ${most} streams open (exec, cp, logs, events), as many as one subject may; end some, or raise limits.streams_per_subject`,
        ),
      )
      return
    }
    // Who left while the token was looked at has closed already, and is told of no more.
    if (request.raw.socket.destroyed || reply.raw.destroyed) {
      done()
      return
    }
    open.set(subject, count + 1)
    whenEnded(request, reply, () => {
      const left = (open.get(subject) ?? 1) - 1
      if (left === 0) open.delete(subject)
      else open.set(subject, left)
    })
    done()
  })
}

/** An upgraded connection outlives its answer, a kept one outlives its stream. */
function whenEnded(request: FastifyRequest, reply: FastifyReply, ended: () => void): void {
  if (request.ws) request.raw.socket.once('close', ended)
  else reply.raw.once('close', ended)
}
