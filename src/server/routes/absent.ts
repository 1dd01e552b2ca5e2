// Operations of the official client that this server does not have yet, as one table: an empty list, not found, or what is missing.

import type { FastifySchema } from 'fastify'
import { HypemanError, type ErrorCode } from '../../api/errors.ts'
import type { Access } from '../auth.ts'
import { passBodiesOn } from '../bodies.ts'
import { takeAsItIs } from '../validation.ts'
import { absentSchemas } from './absent-schemas.ts'
import { failure, lookupErrors, type App, type RouteContext } from './context.ts'

type Answer =
  /** There are none, truly. */
  | 'none'
  /** There is none of that name, since there are none. */
  | 'missing'
  /** What is asked for can't be done. */
  | 'unsupported'

interface Row {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  readonly path: string
  readonly access: Access
  readonly answer: Answer
  /** What there is none of, or what is missing. */
  readonly what: string
}

const row = (method: Row['method'], path: string, access: Access, answer: Answer, what: string): Row => ({
  method,
  path,
  access,
  answer,
  what,
})

export const absentOperations: readonly Row[] = [
  row('GET', '/builds', 'build:read', 'none', 'builds'),
  row('POST', '/builds', 'build:write', 'unsupported', 'building images'),
  row('GET', '/builds/:id', 'build:read', 'missing', 'build'),
  row('DELETE', '/builds/:id', 'build:delete', 'missing', 'build'),
  row('GET', '/builds/:id/events', 'build:read', 'missing', 'build'),
  row('GET', '/builders', 'build:read', 'none', 'builders'),
  row('POST', '/builders', 'build:write', 'unsupported', 'building images'),
  row('GET', '/builders/:id', 'build:read', 'missing', 'builder'),
  row('DELETE', '/builders/:id', 'build:delete', 'missing', 'builder'),
  row('POST', '/builders/:id/prune', 'build:write', 'unsupported', 'building images'),
  row('GET', '/devices', 'device:read', 'none', 'devices'),
  row('POST', '/devices', 'device:write', 'unsupported', 'passing devices of the host through'),
  row('GET', '/devices/available', 'device:read', 'none', 'devices'),
  row('GET', '/devices/:id', 'device:read', 'missing', 'device'),
  row('DELETE', '/devices/:id', 'device:delete', 'missing', 'device'),
  row('GET', '/ingresses', 'ingress:read', 'none', 'ingresses'),
  row('POST', '/ingresses', 'ingress:write', 'unsupported', 'ingress by host name (publish ports with network.ports instead)'),
  row('GET', '/ingresses/:id', 'ingress:read', 'missing', 'ingress'),
  row('DELETE', '/ingresses/:id', 'ingress:delete', 'missing', 'ingress'),
]

export function absentRoutes(app: App, { services: { instances } }: RouteContext): void {
  passBodiesOn(app)
  for (const row of absentOperations) {
    const { method, path, access, answer, what } = row
    app.route<{ Params: { id?: string } }>({
      method,
      url: path,
      config: { access },
      schema: schemaOf(row),
      // What is refused as a whole is not read first.
      validatorCompiler: takeAsItIs,
      async handler(request) {
        const { id } = request.params
        // An instance that does not exist is the first thing to say.
        if (id !== undefined && path.startsWith('/instances/')) await instances.get(id)
        switch (answer) {
          case 'none':
            return []
          case 'missing':
            throw new HypemanError('not_found', `there is no ${what} ${id ?? ''}; this server has none yet`)
          case 'unsupported':
            throw new HypemanError('not_supported', `${what} is not supported yet`)
          default:
            return answer satisfies never
        }
      },
    })
  }
}

const answered: Readonly<Record<Answer, { readonly codes: readonly ErrorCode[]; readonly words: string }>> = {
  none: { codes: [], words: 'Not built yet: the list is empty.' },
  missing: { codes: ['not_found'], words: 'Not built yet: there is none, so none is found.' },
  unsupported: { codes: ['not_supported'], words: 'Not built yet: refused.' },
}

function schemaOf({ method, path, answer }: Row): FastifySchema {
  const schema = absentSchemas[`${method} ${path}`]
  if (schema === undefined) return { hide: true }
  const { codes, words } = answered[answer]
  const [, resource = ''] = path.split('/')
  const ofInstance = resource === 'instances'
  return {
    ...schema,
    tags: [resource === 'resources' ? 'server' : resource],
    description: words,
    response: { ...(schema.response as object), ...failure },
    'x-error-codes': [...new Set<ErrorCode>([...(ofInstance ? lookupErrors : []), ...codes])],
  }
}
