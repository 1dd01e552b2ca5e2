// Routes of standby by itself. The policy is set with the instance (instances.ts).

import { autoStandbyStatus } from '../../api/schemas/auto-standby.ts'
import { instanceParams } from '../../api/schemas/instance-requests.ts'
import { failure, lookupErrors, type App, type RouteContext } from './context.ts'

const tags = ['instances'] as const

export function autoStandbyRoutes(app: App, { services: { instances } }: RouteContext): void {
  app.get(
    '/instances/:id/auto-standby/status',
    {
      config: { access: 'instance:read' },
      schema: {
        tags,
        operationId: 'getAutoStandbyStatus',
        summary: 'Whether and when an idle instance goes to standby by itself',
        description: 'What uses it is looked at for the answer: connections to its published ports, and exec, copy and followed logs.',
        params: instanceParams,
        response: { 200: autoStandbyStatus, ...failure },
        'x-error-codes': lookupErrors,
      },
    },
    (request) => instances.autoStandbyStatus(request.params.id),
  )
  app.post(
    '/instances/:id/auto-standby/hold',
    {
      config: { access: 'instance:write' },
      schema: {
        tags,
        operationId: 'holdAutoStandby',
        summary: 'Keep an idle instance from going to standby by itself for a while',
        description:
          'For as long as its idle timeout, from now on; each hold replaces the one before. After 200 it is safe to connect until `hold_until`; nothing is held where it would not go to standby by itself anyway.',
        params: instanceParams,
        response: { 200: autoStandbyStatus, ...failure },
        'x-error-codes': [...lookupErrors, 'instance_in_standby'],
      },
    },
    (request) => instances.holdAwake(request.params.id),
  )
}
