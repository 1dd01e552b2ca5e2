// An official description of an API (OpenAPI 2 or 3, YAML): what it says of a request, and of an answer.

import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { Ajv, type ErrorObject } from 'ajv'
import { parse } from 'yaml'

export interface ApiDescription {
  /** What is wrong with a request; undefined if it is as described. */
  refusal(method: string, url: string, body: unknown): string | undefined
  /** Throws if the stand-in's own answer is another than the description allows. */
  demandAnswer(method: string, url: string, status: number, body: unknown): void
}

type Json = Readonly<Record<string, unknown>>

interface Operation {
  readonly pattern: RegExp
  readonly method: string
  readonly body: { readonly schema: string; readonly required: boolean } | undefined
  /** JSON pointers of the schemas by status or `default`; undefined: no body. */
  readonly answers: ReadonlyMap<string, string | undefined>
}

export interface ReadAs {
  /** A field that the description does not know is wrong, also where the real API would not look at it. */
  readonly onlyKnownFields?: boolean
}

/** `name` is that of a file in `descriptions`; `basePath` comes before each path. */
export async function loadDescription(name: string, basePath = '', { onlyKnownFields = false }: ReadAs = {}): Promise<ApiDescription> {
  const read = parse(await readFile(path.join(import.meta.dirname, 'descriptions', name), 'utf8')) as Json
  const document = onlyKnownFields ? (closed(read) as Json) : read
  const ajv = new Ajv({ strict: false, allErrors: true, validateFormats: false })
  ajv.addSchema(document, 'description')
  const operations = operationsOf(document, basePath)
  const find = (method: string, url: string): Operation | undefined =>
    operations.find((one) => one.method === method.toLowerCase() && one.pattern.test(pathOf(url)))
  const wrong = (schema: string, value: unknown): string | undefined => {
    const valid = ajv.validate({ $ref: `description#${schema}` }, value)
    return valid ? undefined : (ajv.errors ?? []).map(words).join('; ')
  }
  return {
    refusal(method, url, body) {
      const operation = find(method, url)
      if (operation === undefined) return `Invalid request method and/or path: ${method} ${pathOf(url)}.`
      if (body === undefined) return operation.body?.required === true ? `${method} ${pathOf(url)} needs a body` : undefined
      if (operation.body === undefined) return `${method} ${pathOf(url)} takes no body`
      return wrong(operation.body.schema, body)
    },
    demandAnswer(method, url, status, body) {
      const answers = find(method, url)?.answers
      const key = answers?.has(String(status)) === true ? String(status) : 'default'
      const problem = (): string | undefined => {
        if (answers === undefined) return status >= 400 ? undefined : 'there is no such operation'
        if (!answers.has(key)) return `the status ${status} is none of its answers`
        const schema = answers.get(key)
        if (schema === undefined) return body === undefined ? undefined : 'this answer has no body'
        return wrong(schema, body)
      }
      const what = problem()
      if (what !== undefined) throw new Error(`${method} ${url} → ${status} ${JSON.stringify(body)} is not as described: ${what}`)
    },
  }
}

/** Every schema that names its fields takes those alone. */
function closed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(closed)
  if (typeof value !== 'object' || value === null) return value
  const copy: Json = Object.fromEntries(Object.entries(value).map(([key, one]) => [key, closed(one)]))
  const names = copy['type'] === 'object' && typeof copy['properties'] === 'object' && copy['additionalProperties'] === undefined
  return names ? { ...copy, additionalProperties: false } : copy
}

function pathOf(url: string): string {
  return url.replace(/\?.*$/, '')
}

function words({ instancePath, message, params }: ErrorObject): string {
  return `${instancePath || 'body'} ${message ?? 'is wrong'} (${JSON.stringify(params)})`
}

const methods = ['get', 'put', 'patch', 'post', 'delete'] as const

function operationsOf(document: Json, basePath: string): Operation[] {
  return Object.entries(document['paths'] as Json).flatMap(([route, item]) =>
    methods.flatMap((method) => {
      const found = (item as Json)[method] as Json | undefined
      if (found === undefined) return []
      const at = `/paths/${route.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')}/${method}`
      const pattern = new RegExp(`^${basePath}${route.replaceAll(/\{[^}]+\}/g, '[^/]+')}$`)
      return [{ pattern, method, body: bodyOf(found, at), answers: answersOf(found, at) }]
    }),
  )
}

/** Of OpenAPI 2 (a parameter in the body) or 3. */
function bodyOf(operation: Json, at: string): Operation['body'] {
  const parameters = (operation['parameters'] ?? []) as readonly Json[]
  const index = parameters.findIndex((one) => one['in'] === 'body')
  if (index >= 0) return { schema: `${at}/parameters/${index}/schema`, required: parameters[index]?.['required'] === true }
  const body = operation['requestBody'] as Json | undefined
  return body === undefined
    ? undefined
    : { schema: `${at}/requestBody/content/application~1json/schema`, required: body['required'] === true }
}

function answersOf(operation: Json, at: string): ReadonlyMap<string, string | undefined> {
  const entries = Object.entries(operation['responses'] as Readonly<Record<string, Json>>).map(([status, answer]) => {
    if (answer['schema'] !== undefined) return [status, `${at}/responses/${status}/schema`] as const
    const content = answer['content'] as Json | undefined
    return [
      status,
      content?.['application/json'] === undefined ? undefined : `${at}/responses/${status}/content/application~1json/schema`,
    ] as const
  })
  return new Map(entries)
}
