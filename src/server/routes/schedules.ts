// Routes of snapshot schedules: one for each instance.

import { instanceParams } from '../../api/schemas/instance-requests.ts'
import { schedule, setScheduleBody } from '../../api/schemas/schedule.ts'
import { failure, lookupErrors, nothing, writeErrors, type App, type RouteContext } from './context.ts'

const tags = ['snapshots'] as const
const path = '/instances/:id/snapshot-schedule'

export function scheduleRoutes(app: App, { services: { schedules } }: RouteContext): void {
  app.put(
    path,
    {
      config: { access: 'snapshot:write' },
      schema: {
        tags,
        operationId: 'setSnapshotSchedule',
        summary: 'Have an instance snapshotted by itself, again and again',
        description:
          'Makes or replaces the schedule. Each run takes a Standby snapshot of a Running or Standby instance, and a Stopped one of a Stopped instance. Only another interval moves the next run.',
        params: instanceParams,
        body: setScheduleBody,
        response: { 200: schedule, ...failure },
        'x-error-codes': [...lookupErrors, ...writeErrors],
      },
    },
    (request) => schedules.set(request.params.id, request.body),
  )
  app.get(
    path,
    {
      config: { access: 'snapshot:read' },
      schema: {
        tags,
        operationId: 'getSnapshotSchedule',
        summary: 'Show the schedule of an instance and what became of its last run',
        description: 'That of a deleted instance is found by its whole id for as long as snapshots of the schedule are there.',
        params: instanceParams,
        response: { 200: schedule, ...failure },
        'x-error-codes': lookupErrors,
      },
    },
    (request) => schedules.get(request.params.id),
  )
  app.delete(
    path,
    {
      config: { access: 'snapshot:delete' },
      schema: {
        tags,
        operationId: 'deleteSnapshotSchedule',
        summary: 'End the schedule of an instance',
        description: 'Its snapshots stay. A run that is under way is waited for.',
        params: instanceParams,
        response: { 204: nothing, ...failure },
        'x-error-codes': [...lookupErrors, 'busy', 'storage_unsuitable'],
      },
    },
    async (request, reply) => {
      await schedules.remove(request.params.id)
      return reply.code(204).send(null)
    },
  )
}
