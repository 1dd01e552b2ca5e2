// Ingresses on the wire, as the official client knows them: ways from host names to instances. Described so that the API's description is whole.

import { z } from 'zod'
import { port, resourceName, tags, timestamp } from './common.ts'

const rule = z.object({
  match: z.object({
    hostname: z.string().meta({ description: 'A host name, or a pattern with `{name}` in it.' }),
    port: port.optional().meta({ description: 'Where the host listens; by default 80.' }),
  }),
  target: z.object({ instance: z.string().meta({ description: 'Id or name of the instance, or `{name}` of the pattern.' }), port }),
  tls: z.boolean().optional(),
  redirect_http: z.boolean().optional().meta({ description: 'With tls: plain HTTP is sent there.' }),
  request_header_auth: z
    .object({ header: z.string(), value: z.string() })
    .optional()
    .meta({ description: 'A header that requests must carry.' }),
})

export const ingress = z
  .object({ id: z.string(), name: z.string(), rules: z.array(rule), created_at: timestamp, tags: tags.optional() })
  .meta({ id: 'Ingress', description: 'Ways from host names to instances.' })

export const createIngressBody = z
  .object({ name: resourceName, rules: z.array(rule).min(1), tags: tags.optional() })
  .meta({ id: 'CreateIngress' })

export const ingressParams = z.object({ id: z.string().min(1).meta({ description: 'Id, name, or a unique prefix of the id.' }) })
