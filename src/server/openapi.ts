// The API described by itself: OpenAPI 3.1 out of the routes and their schemas.

import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { FastifyInstance } from 'fastify'
import { jsonSchemaTransform, jsonSchemaTransformObject } from 'fastify-type-provider-zod'

declare module 'fastify' {
  interface FastifySchema {
    /** Content types of a body that is streamed, and so has no schema. */
    'x-streamed-body'?: readonly string[]
  }
}

const prefix = '#/components/schemas/'

type Document = NonNullable<FastifyDynamicSwaggerOptions['openapi']>

export function openApiOptions(version: string): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: { title: 'hypeman', description: 'Virtual machines from OCI images that can be snapshotted and forked.', version },
      servers: [{ url: '/' }],
      components: { securitySchemes: { bearerAuth: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } } },
      tags: [
        { name: 'instances', description: 'Virtual machines: their life, their logs, running programs and copying files in them.' },
        { name: 'snapshots', description: 'Instants of instances, to go back to and to fork from.' },
        { name: 'images', description: 'OCI images that instances are made from.' },
        { name: 'volumes', description: 'Disks that outlive instances.' },
        { name: 'builds', description: 'Images that are built from sources. None can be made yet.' },
        { name: 'builders', description: 'Places for builds that keep their cache. None can be made yet.' },
        { name: 'devices', description: 'Devices of the host that instances may have. None can be given yet.' },
        { name: 'ingresses', description: 'Ways from host names to instances. None can be made yet.' },
        { name: 'pushes', description: 'Images of this server on their way to other registries.' },
        { name: 'server', description: 'The server itself.' },
      ],
    },
    transform: jsonSchemaTransform,
    transformObject: (document) => tidy(jsonSchemaTransformObject(document) as Document),
  }
}

/** Writes the scope that each route asks for into its description. */
export function describeAccess(api: FastifyInstance): void {
  api.addHook('onRoute', (route) => {
    const access = route.config?.access
    if (access === undefined || route.schema === undefined) return
    route.schema = { ...route.schema, security: access === 'public' ? [] : [{ bearerAuth: [access] }] }
  })
}

/** Repairs what the generators can't know: names, filters by tag, bodies that are streams or may be absent, words for answers. */
function tidy(document: Document): Document {
  const tidied = withShortNames(document)
  const schemas = new Map<string, unknown>(Object.entries(tidied.components?.schemas ?? {}))
  const used = new Set<string>()
  collectReferences(tidied.paths, schemas, used)
  const kept = [...schemas].filter(([name]) => used.has(name)).toSorted(([a], [b]) => a.localeCompare(b))
  Object.assign(tidied.components ?? {}, { schemas: Object.fromEntries(kept) })
  for (const item of Object.values(tidied.paths ?? {}))
    for (const operation of Object.values(item ?? {})) if (isRecord(operation)) tidyOperation(operation, schemas)
  return tidied
}

function tidyOperation(operation: Record<string, unknown>, schemas: ReadonlyMap<string, unknown>): void {
  const { parameters, responses, requestBody, 'x-streamed-body': streamed } = operation
  for (const parameter of Array.isArray(parameters) ? parameters : [])
    if (isRecord(parameter) && parameter['in'] === 'query' && parameter['name'] === 'tags')
      Object.assign(parameter, { style: 'deepObject', explode: true })
  for (const [status, response] of Object.entries(isRecord(responses) ? responses : {}))
    if (isRecord(response) && response['description'] === 'Default Response')
      response['description'] = status === 'default' ? 'An error, with a code of the error table.' : 'Success.'
  if (isRecord(requestBody)) requestBody['required'] = needsSomething(requestBody, schemas)
  if (!Array.isArray(streamed)) return
  const content = Object.fromEntries(streamed.map((type) => [String(type), { schema: { type: 'string', format: 'binary' } }]))
  operation['requestBody'] = { required: true, content }
  delete operation['x-streamed-body']
}

function needsSomething(body: Record<string, unknown>, schemas: ReadonlyMap<string, unknown>): boolean {
  const [reference] = JSON.stringify(body['content']).match(/(?<=#\/components\/schemas\/)\w+/) ?? []
  const schema = schemas.get(reference ?? '')
  return isRecord(schema) && Array.isArray(schema['required'])
}

/** Schemas of requests are called `…Input`; where no answer has a schema of that name, they don't need to be. */
function withShortNames(document: Document): Document {
  const text = JSON.stringify(document)
  const requests = Object.keys(document.components?.schemas ?? {}).flatMap((name) => {
    const short = name.replace(/Input$/, '')
    return short !== name && text.includes(`"${prefix}${name}"`) && !text.includes(`"${prefix}${short}"`) ? [short] : []
  })
  const renamed = structuredClone(document)
  const schemas: Record<string, unknown> = renamed.components?.schemas ?? {}
  for (const name of requests) {
    schemas[name] = schemas[`${name}Input`]
    delete schemas[`${name}Input`]
  }
  const references = requests.map((name) => `"${prefix}${name}Input"`)
  const repaired = references.reduce(
    (all, reference) => all.replaceAll(reference, reference.replace('Input"', '"')),
    JSON.stringify(renamed),
  )
  return JSON.parse(repaired) as Document
}

function collectReferences(node: unknown, schemas: ReadonlyMap<string, unknown>, used: Set<string>): void {
  if (typeof node !== 'object' || node === null) return
  for (const [key, value] of Object.entries(node)) {
    if (key !== '$ref' || typeof value !== 'string' || !value.startsWith(prefix)) {
      collectReferences(value, schemas, used)
      continue
    }
    const name = value.slice(prefix.length)
    if (used.has(name)) continue
    used.add(name)
    collectReferences(schemas.get(name), schemas, used)
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
