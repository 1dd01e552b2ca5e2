// Routes of instances: what changes them and what shows them. Their streams are in events.ts and streams.ts, their snapshots in snapshots.ts.

import { z } from 'zod'
import {
  createInstanceBody,
  deleteInstanceQuery,
  forkInstanceBody,
  instanceParams,
  listInstancesQuery,
  startInstanceBody,
  statQuery,
  updateInstanceBody,
  waitQuery,
} from '../../api/schemas/instance-requests.ts'
import { instance, instanceStats, pathInfo, waitResult } from '../../api/schemas/instance.ts'
import { standbyInstanceBody } from '../../api/schemas/snapshot-policy.ts'
import { parseDuration } from '../../api/units.ts'
import { untilGone } from '../signals.ts'
import { refuseUnsupportedCreate } from '../unsupported.ts'
import { writePlainly } from '../validation.ts'
import { failure, lookupErrors, nothing, subjectOf, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['instances'] as const
const LONGEST_WAIT_MS = 300_000
/** Clients give up after the minute that is also the default here: the answer shall come before. */
const WAIT_MARGIN_MS = 2_000

export function instanceRoutes(app: App, context: RouteContext): void {
  collectionRoutes(app, context)
  lifecycleRoutes(app, context)
  inspectionRoutes(app, context)
}

function collectionRoutes(app: App, { services: { instances } }: RouteContext): void {
  app.post(
    '/instances',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'createInstance',
        summary: 'Create an instance and start it',
        description: 'Answers as soon as the VM runs; the state is Initializing until its program was started.',
        body: createInstanceBody,
        response: { 201: instance, ...failure },
        'x-error-codes': [
          ...(['invalid_name', 'invalid_size', 'invalid_overlay_size', 'invalid_ttl', 'invalid_expires_at', 'invalid_platform'] as const),
          ...(['invalid_hotplug_size', 'invalid_disk_io_bps', 'invalid_bandwidth_download', 'invalid_bandwidth_upload'] as const),
          ...(['invalid_restart_policy', 'invalid_health_check', 'invalid_auto_standby', 'invalid_snapshot_policy'] as const),
          ...([...lookupErrors, 'name_conflict', 'insufficient_resources', 'port_in_use', 'not_supported', 'host_unavailable'] as const),
          // An image that is not here is pulled.
          ...(['image_not_ready', 'invalid_archive', 'platform_not_available', 'rate_limited', 'registry_unavailable'] as const),
          ...writeErrors,
        ],
      },
    },
    async (request, reply) => {
      refuseUnsupportedCreate(request.body)
      return reply.code(201).send(await instances.create(request.body, subjectOf(request)))
    },
  )
  app.get(
    '/instances',
    {
      serializerCompiler: writePlainly,
      config: { access: 'instance:read' },
      schema: {
        tags,
        operationId: 'listInstances',
        summary: 'List instances',
        querystring: listInstancesQuery,
        response: { 200: z.array(instance), ...failure },
      },
    },
    (request) => instances.list(request.query),
  )
  app.get(
    '/instances/:id',
    {
      config: { access: 'instance:read' },
      schema: {
        tags,
        operationId: 'getInstance',
        summary: 'Show an instance',
        params: instanceParams,
        response: { 200: instance, ...failure },
        'x-error-codes': ['not_found', 'ambiguous'],
      },
    },
    (request) => instances.get(request.params.id),
  )
  app.patch(
    '/instances/:id',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'updateInstance',
        summary:
          'Change when an instance is deleted by itself, its size, its restart policy, its health check, its environment, or when it goes to standby by itself',
        params: instanceParams,
        body: updateInstanceBody,
        response: { 200: instance, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_ttl', 'invalid_expires_at', 'invalid_restart_policy', 'invalid_health_check'] as const),
          ...(['invalid_auto_standby', 'instance_expired', 'busy', 'forbidden', ...writeErrors] as const),
          ...(['invalid_size', 'invalid_overlay_size', 'invalid_state', 'insufficient_resources', 'not_supported', 'conflict'] as const),
          'guest_unreachable',
        ],
      },
    },
    (request) => instances.update(request.params.id, request.body, subjectOf(request)),
  )
  app.delete(
    '/instances/:id',
    {
      config: { access: 'instance:delete' },
      schema: {
        tags,
        operationId: 'deleteInstance',
        summary: 'Delete an instance',
        description: 'In any state. Its snapshots, and what was forked from it, stay.',
        params: instanceParams,
        querystring: deleteInstanceQuery,
        response: { 204: nothing, ...failure },
        'x-error-codes': ['not_found', 'ambiguous', 'busy', 'storage_unsuitable'],
      },
    },
    async (request, reply) => {
      await instances.remove(request.params.id, { gracefulShutdown: request.query.graceful_shutdown })
      return reply.code(204).send(null)
    },
  )
}

function lifecycleRoutes(app: App, { services: { instances } }: RouteContext): void {
  app.post(
    '/instances/:id/start',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'startInstance',
        summary: 'Boot a Stopped instance from its disks',
        params: instanceParams,
        body: startInstanceBody,
        response: { 200: instance, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_state', 'busy', 'insufficient_resources', 'port_in_use', 'host_unavailable'] as const),
          ...writeErrors,
        ],
      },
    },
    (request) => instances.start(request.params.id, request.body),
  )
  app.post(
    '/instances/:id/stop',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'stopInstance',
        summary: 'Shut an instance down',
        description:
          'Its program gets its stop signal, and is killed if it does not end. The memory of an instance in Standby is given up.',
        params: instanceParams,
        response: { 200: instance, ...failure },
        'x-error-codes': [...lookupErrors, 'invalid_state', 'busy', ...writeErrors],
      },
    },
    (request) => instances.stop(request.params.id),
  )
  app.post(
    '/instances/:id/standby',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'standbyInstance',
        summary: 'Write the memory of a Running instance to disk and end its VM',
        description:
          'The memory is compressed after the answer, if `compression` or the snapshot_policy of the instance asks for it; a restore decompresses it first.',
        params: instanceParams,
        body: standbyInstanceBody,
        response: { 200: instance, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_snapshot_compression', 'invalid_compression_delay'] as const),
          ...(['invalid_state', 'busy', 'guest_unreachable', 'not_supported', 'host_unavailable', ...writeErrors] as const),
        ],
      },
    },
    (request) => instances.standby(request.params.id, request.body),
  )
  app.post(
    '/instances/:id/restore',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'restoreInstance',
        summary: 'Go on with an instance in Standby where it stood still',
        params: instanceParams,
        response: { 200: instance, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_state', 'busy', 'corrupt_snapshot', 'incompatible_version'] as const),
          ...(['insufficient_resources', 'port_in_use', 'guest_unreachable', 'host_unavailable', ...writeErrors] as const),
        ],
      },
    },
    (request) => instances.restore(request.params.id),
  )
  app.post(
    '/instances/:id/fork',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'forkInstance',
        summary: 'Make a new instance out of this one',
        description:
          'With the same disks and, unless it is Stopped, the same memory; with an identity, network address and entropy of its own.',
        params: instanceParams,
        body: forkInstanceBody,
        response: { 201: instance, ...failure },
        'x-error-codes': [
          ...([...lookupErrors, 'invalid_name', 'name_conflict', 'invalid_state', 'busy', 'forbidden', 'not_supported'] as const),
          ...(['corrupt_snapshot', 'incompatible_version', 'insufficient_resources', 'guest_unreachable', 'host_unavailable'] as const),
          ...writeErrors,
        ],
      },
    },
    async (request, reply) => reply.code(201).send(await instances.fork(request.params.id, request.body, subjectOf(request))),
  )
}

function inspectionRoutes(app: App, { services: { instances }, stopping }: RouteContext): void {
  app.get(
    '/instances/:id/wait',
    {
      config: { access: 'instance:read' },
      schema: {
        tags,
        operationId: 'waitForInstance',
        summary: 'Wait until an instance is in a state',
        description:
          'Also ends, with `timed_out` false, when the instance came to rest in another state. Waits of a minute and more are answered 2 s early.',
        params: instanceParams,
        querystring: waitQuery,
        response: { 200: waitResult, ...failure },
        'x-error-codes': [...lookupErrors, 'invalid_timeout', 'canceled'],
      },
    },
    (request, reply) => {
      const { state, timeout } = request.query
      return instances.wait(request.params.id, state, waitMsOf(timeout), untilGone(reply, stopping))
    },
  )
  app.get(
    '/instances/:id/stat',
    {
      config: { access: 'instance:read' },
      schema: {
        tags,
        operationId: 'statInstancePath',
        summary: 'Look at a path in the guest',
        description: 'A path that does not exist is `exists: false`, not an error. The guest has 10 s to answer.',
        params: instanceParams,
        querystring: statQuery,
        response: { 200: pathInfo, ...failure },
        'x-error-codes': [...lookupErrors, 'invalid_state', 'guest_unreachable'],
      },
    },
    (request, reply) => instances.stat(request.params.id, request.query.path, request.query.follow_links, untilGone(reply, stopping)),
  )
  app.get(
    '/instances/:id/stats',
    {
      config: { access: 'instance:read' },
      schema: {
        tags,
        operationId: 'getInstanceStats',
        summary: 'What an instance uses of the host',
        description: 'What went over the network is told by the guest itself: 0 if its agent does not answer within 3 s, or there is none.',
        params: instanceParams,
        response: { 200: instanceStats, ...failure },
        'x-error-codes': lookupErrors,
      },
    },
    (request, reply) => instances.stats(request.params.id, untilGone(reply, stopping)),
  )
}

function waitMsOf(timeout: string): number {
  const ms = Math.min(parseDuration(timeout) ?? 0, LONGEST_WAIT_MS)
  return ms < 60_000 ? ms : ms - WAIT_MARGIN_MS
}
