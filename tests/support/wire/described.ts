// What our own description of the API says of an operation, with the references in its schemas followed.

import { isDeepStrictEqual } from 'node:util'
import { z } from 'zod'

const media = z.record(z.string(), z.object({ schema: z.unknown() }))

const operation = z.object({
  operationId: z.string(),
  description: z.string().optional(),
  parameters: z.array(z.object({ name: z.string(), in: z.string(), required: z.boolean(), schema: z.unknown() })).default([]),
  requestBody: z.object({ required: z.boolean(), content: media }).optional(),
  responses: z.record(z.string(), z.object({ content: media.optional() })),
  'x-error-codes': z.array(z.string()).default([]),
})

export type DescribedOperation = z.infer<typeof operation>

const document = z.object({
  paths: z.record(z.string(), z.record(z.string(), operation)),
  components: z.object({ schemas: z.record(z.string(), z.unknown()) }),
})

export interface Described extends DescribedOperation {
  readonly method: string
  readonly path: string
}

/** Every operation of a description. */
export function describedOperations(description: unknown): Described[] {
  const { paths, components } = document.parse(description)
  return Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, one]) => ({
      ...operation.parse(followed(one, components.schemas)),
      method: method.toUpperCase(),
      path,
    })),
  )
}

function followed(node: unknown, schemas: Readonly<Record<string, unknown>>): unknown {
  if (Array.isArray(node)) return node.map((one) => followed(one, schemas))
  if (typeof node !== 'object' || node === null) return node
  const reference: unknown = Reflect.get(node, '$ref')
  if (typeof reference === 'string') return followed(schemas[reference.split('/').at(-1) ?? ''], schemas)
  return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, followed(value, schemas)]))
}

/** Whether a description of a schema is what the schema says. */
export function describes(described: unknown, schema: z.ZodType, io: 'input' | 'output'): boolean {
  const { $schema: _version, $defs: named = {}, ...own } = z.toJSONSchema(schema, { io, unrepresentable: 'any' })
  return isDeepStrictEqual(described, JSON.parse(JSON.stringify(followed(own, named))))
}

/** Whether the parameters of a description are what the schema of a query says. */
export function describesQuery(parameters: DescribedOperation['parameters'], schema: z.ZodType): boolean {
  const { $defs: named = {}, ...own } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' })
  const { properties = {}, required = [] } = querySchema.parse(followed(own, named))
  const described = parameters.filter((parameter) => parameter.in === 'query')
  const bare = (one: unknown): unknown => JSON.parse(JSON.stringify({ ...z.looseObject({}).parse(one), description: undefined }))
  return isDeepStrictEqual(
    Object.fromEntries(described.map((parameter) => [parameter.name, { required: parameter.required, schema: bare(parameter.schema) }])),
    Object.fromEntries(Object.entries(properties).map(([name, one]) => [name, { required: required.includes(name), schema: bare(one) }])),
  )
}

const querySchema = z.object({ properties: z.record(z.string(), z.unknown()).optional(), required: z.array(z.string()).optional() })
