// Routes of snapshots: those of one instance, and all of them.

import type { FastifyRequest } from 'fastify'
import { z } from 'zod'
import { instanceParams } from '../../api/schemas/instance-requests.ts'
import { instance } from '../../api/schemas/instance.ts'
import {
  createSnapshotBody,
  forkSnapshotBody,
  listSnapshotsQuery,
  restoreSnapshotBody,
  snapshot,
  snapshotParams,
} from '../../api/schemas/snapshot.ts'
import { snapshotVerification, verifyEvent, type SnapshotVerification, type VerifyEvent } from '../../api/schemas/verification.ts'
import { untilGone } from '../signals.ts'
import { sendEvents } from '../sse.ts'
import { writePlainly } from '../validation.ts'
import { failure, lookupErrors, nothing, subjectOf, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['snapshots'] as const

export function snapshotRoutes(app: App, context: RouteContext): void {
  routesOfOneInstance(app, context)
  routesOfAll(app, context)
}

function routesOfOneInstance(app: App, { services: { snapshots } }: RouteContext): void {
  app.post(
    '/instances/:id/snapshots',
    {
      config: { access: 'snapshot:write' },
      schema: {
        tags,
        operationId: 'createSnapshot',
        summary: 'Take a snapshot of an instance',
        description:
          'A Running instance stands still for a moment and goes on, with its programs and connections. Memory is compressed after the answer, if `compression` or the snapshot_policy of the instance asks for it.',
        params: instanceParams,
        body: createSnapshotBody,
        response: { 201: snapshot, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_name', 'invalid_snapshot_compression', 'busy'] as const),
          ...(['corrupt_snapshot', 'guest_unreachable', 'not_supported', 'host_unavailable', ...writeErrors] as const),
        ],
      },
    },
    async (request, reply) => reply.code(201).send(await snapshots.create(request.params.id, request.body, subjectOf(request))),
  )
  app.post(
    '/instances/:id/snapshots/:snapshotId/restore',
    {
      config: { access: 'snapshot:write' },
      schema: {
        tags,
        operationId: 'restoreSnapshot',
        summary: 'Put an instance back to one of its snapshots',
        description: 'In place and all or nothing: the instance keeps its id, name and addresses; if it fails, everything is as before.',
        params: z.object({ ...instanceParams.shape, ...snapshotParams.shape }),
        body: restoreSnapshotBody,
        response: { 200: instance, ...failure },
        'x-error-codes': [
          ...([
            ...lookupErrors,
            'invalid_state',
            'busy',
            'corrupt_snapshot',
            'incompatible_version',
            'insufficient_resources',
            'port_in_use',
          ] as const),
          ...(['guest_unreachable', 'host_unavailable', 'not_supported', ...writeErrors] as const),
        ],
      },
    },
    (request) => snapshots.restore(request.params.id, request.params.snapshotId, request.body),
  )
}

function routesOfAll(app: App, context: RouteContext): void {
  const { snapshots } = context.services
  app.get(
    '/snapshots',
    {
      serializerCompiler: writePlainly,
      config: { access: 'snapshot:read' },
      schema: {
        tags,
        operationId: 'listSnapshots',
        summary: 'List snapshots',
        querystring: listSnapshotsQuery,
        response: { 200: z.array(snapshot), ...failure },
      },
    },
    (request) => snapshots.list(request.query),
  )
  app.get(
    '/snapshots/:snapshotId',
    {
      config: { access: 'snapshot:read' },
      schema: {
        tags,
        operationId: 'getSnapshot',
        summary: 'Show a snapshot',
        params: snapshotParams,
        response: { 200: snapshot, ...failure },
        'x-error-codes': lookupErrors,
      },
    },
    (request) => snapshots.get(request.params.snapshotId),
  )
  app.delete(
    '/snapshots/:snapshotId',
    {
      config: { access: 'snapshot:delete' },
      schema: {
        tags,
        operationId: 'deleteSnapshot',
        summary: 'Delete a snapshot',
        description: 'Neither its instance nor what was forked from it is touched.',
        params: snapshotParams,
        response: { 204: nothing, ...failure },
        'x-error-codes': ['not_found', 'ambiguous', 'busy', 'storage_unsuitable'],
      },
    },
    async (request, reply) => {
      await snapshots.remove(request.params.snapshotId)
      return reply.code(204).send(null)
    },
  )
  verifyRoutes(app, context)
  app.post(
    '/snapshots/:snapshotId/fork',
    {
      config: { access: 'snapshot:write' },
      schema: {
        tags,
        operationId: 'forkSnapshot',
        summary: 'Make a new instance out of a snapshot',
        description: 'With an identity, network address and entropy of its own. A Running fork is answered once its own guest agent has.',
        params: snapshotParams,
        body: forkSnapshotBody,
        response: { 201: instance, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_name', 'name_conflict', 'busy', 'corrupt_snapshot', 'incompatible_version'] as const),
          ...(['insufficient_resources', 'guest_unreachable', 'host_unavailable', 'not_supported', 'forbidden', ...writeErrors] as const),
        ],
      },
    },
    async (request, reply) => reply.code(201).send(await snapshots.fork(request.params.snapshotId, request.body, subjectOf(request))),
  )
}

const verifying =
  'Reads everything from the disk and compares it with the digests of when the snapshot was taken. What it finds is kept for later forks. With `Accept: text/event-stream` progress comes first.'

/** Both answers are 200 also when something is bad: the verification went well. */
function verifyRoutes(app: App, { services: { snapshots }, stopping }: RouteContext): void {
  app.post(
    '/snapshots/:snapshotId/verify',
    {
      config: { access: 'snapshot:read' },
      schema: {
        tags,
        operationId: 'verifySnapshot',
        summary: 'Verify every byte of a snapshot',
        description: verifying,
        params: snapshotParams,
        response: { 200: answers(snapshotVerification), ...failure },
        'x-error-codes': ['not_found', 'ambiguous'],
      },
    },
    async (request, reply) => {
      const signal = untilGone(reply, stopping)
      const events = snapshots.verify(request.params.snapshotId, signal)
      if (wantsEvents(request)) {
        await sendEvents(reply, events, signal)
        return reply
      }
      const [result] = await resultsOf(events)
      if (result === undefined) throw new Error('a verification ended without a result')
      return reply.send(result)
    },
  )
  app.post(
    '/snapshots/verify',
    {
      config: { access: 'snapshot:read' },
      schema: {
        tags,
        operationId: 'verifySnapshots',
        summary: 'Verify all snapshots, also those whose record can not be read',
        description: verifying,
        response: { 200: answers(z.array(snapshotVerification)), ...failure },
      },
    },
    async (request, reply) => {
      const signal = untilGone(reply, stopping)
      const events = snapshots.verifyAll(signal)
      if (!wantsEvents(request)) return reply.send(await resultsOf(events))
      await sendEvents(reply, events, signal)
      return reply
    },
  )
}

function answers<Schema extends z.ZodType>(result: Schema) {
  return {
    description: 'What was found of each file.',
    content: { 'application/json': { schema: result }, 'text/event-stream': { schema: verifyEvent } },
  }
}

function wantsEvents({ headers }: FastifyRequest): boolean {
  return headers.accept?.includes('text/event-stream') === true
}

async function resultsOf(events: AsyncIterable<VerifyEvent>): Promise<SnapshotVerification[]> {
  const results: SnapshotVerification[] = []
  for await (const event of events) {
    if (event.type !== 'result') continue
    const { type: _type, ...result } = event
    results.push(result)
  }
  return results
}
