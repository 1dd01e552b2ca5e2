// The API reference as Markdown: operations by resource, then the objects, the error table and what is not built.

import { catalogue, type ErrorRow } from '../../src/api/errors.ts'
import { absentOperations } from '../../src/server/routes/absent.ts'
import type { OpenApiDocument, Operation, Schema } from './document.ts'

export function renderReference(document: OpenApiDocument): string {
  const parts = [
    introduction,
    ...document.tags.map(({ name, description }) => renderResource(document, name, description)),
    renderObjects(document),
    renderErrors(),
    renderAbsent(),
  ]
  return `${parts.join('\n\n')}\n`
}

const introduction = `# API reference

<!-- Written by scripts/api-reference.ts out of the routes and schemas; change those. -->

The server describes itself in OpenAPI 3.1 at \`/openapi.json\` (also \`/spec.json\` and \`/spec.yaml\`), and shows that to browsers at \`/docs\`, both without a token.
Everything else but \`GET /health\` needs \`Authorization: Bearer <token>\`, a JWT signed with HS256 under the server's secret: \`hypeman token create\` makes one.
Its claim \`permissions\` lists the scopes that it carries; without that claim, or with \`*\`, it may do everything.

- Bodies and answers are JSON. An absent body is \`{}\`. Unknown fields are ignored; wrong types are refused with the path of the field.
- Times are RFC 3339. Durations are those of Go: \`90s\`, \`5m\`, \`1h30m\`. Sizes are 1024-based: \`512MB\`, \`2GB\`.
- \`{id}\` of an instance is its id, its name or a unique prefix of its id; of a snapshot its id or a unique prefix; of a volume its id or name.
- An image's \`{name}\` is a reference or a digest, percent-encoded or not: \`/images/docker.io%2Flibrary%2Falpine:3.20\`.
- Lists are plain arrays. \`?tags[team]=backend&tags[env]=dev\` filters by tags, all of which must match.
- Every answer carries \`x-request-id\`, under which the server's log has the request. Operations go on when their caller leaves; streams and waits end.
- \`/v2/\` is an OCI registry: what is pushed there becomes an image. Sign in with the token as password and any user name.`

function renderResource(document: OpenApiDocument, tag: string, description: string): string {
  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    Object.entries(item)
      .filter(([, operation]) => operation.tags.includes(tag))
      .map(([method, operation]) => renderOperation(method.toUpperCase(), path, operation)),
  )
  return [`## ${capitalised(tag)}`, description, ...operations].join('\n\n')
}

function renderOperation(method: string, path: string, operation: Operation): string {
  const [scope] = operation.security.flatMap((alternative) => Object.values(alternative).flat())
  const codes = operation['x-error-codes'].map((code) => `\`${code}\``)
  return [
    `### ${method} ${path}`,
    `${operation.summary}.${operation.description === undefined ? '' : ` ${operation.description}`}`,
    renderParameters(operation),
    renderBody(operation),
    [
      scope === undefined ? 'Needs no token.' : `Scope: \`${scope}\`.`,
      ...renderAnswers(operation),
      ...(codes.length === 0 ? [] : [`Errors of its own: ${codes.join(', ')}.`]),
    ].join(' '),
  ]
    .filter((part) => part !== '')
    .join('\n\n')
}

function renderParameters({ parameters }: Operation): string {
  // What stands in paths is the same everywhere and explained at the top.
  const rows = parameters
    .filter((parameter) => parameter.in === 'query')
    .map(({ name, required, description, schema }) => [
      `\`${name}\``,
      typeOf(schema),
      required ? 'required' : defaultOf(schema),
      description ?? '',
    ])
  return rows.length === 0 ? '' : table(['In the query', 'Type', 'Default', ''], rows)
}

function renderBody({ requestBody }: Operation): string {
  if (requestBody === undefined) return ''
  const [[type, { schema }] = ['', { schema: {} }]] = Object.entries(requestBody.content)
  if (schema.format === 'binary')
    return `Body: a stream (${Object.keys(requestBody.content)
      .map((each) => `\`${each}\``)
      .join(', ')}).`
  return `Body: ${typeOf(schema)}${type === 'application/json' ? '' : ` as \`${type}\``}${requestBody.required ? '' : ' (may be absent)'}.`
}

function renderAnswers({ responses }: Operation): string[] {
  return Object.entries(responses)
    .filter(([status]) => status !== 'default')
    .map(([status, { description, content }]) => {
      const [[type, media] = ['', undefined]] = Object.entries(content ?? {})
      if (media === undefined) return `Answer: ${status}. ${description}`
      const what = typeOf(media.schema)
      return `Answer: ${status} ${type === 'text/event-stream' ? `server-sent events, each ${what}` : what}.`
    })
}

function renderObjects(document: OpenApiDocument): string {
  const objects = Object.entries(document.components.schemas).map(([name, schema]) => {
    const alternatives = [...(schema.oneOf ?? []), ...(schema.anyOf ?? [])]
    const shown = alternatives.length === 0 ? [schema] : alternatives
    const tables = shown.map((each) => {
      const rows = fieldRows(each, '')
      return rows.length === 0 ? 'No fields.' : table(['Field', 'Type', 'Default', ''], rows)
    })
    return [`### ${name}`, ...(schema.description === undefined ? [] : [schema.description]), tables.join('\n\nor\n\n')].join('\n\n')
  })
  return ['## Objects', 'A field without a default may be absent unless it is required.', ...objects].join('\n\n')
}

/** Fields of fields follow theirs, as `network.ports[].guest_port`. */
function fieldRows(schema: Schema, prefix: string): string[][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, field]) => {
    const at = `${prefix}${name}`
    const required = schema.required?.includes(name) === true && field.default === undefined
    const row = [`\`${at}\``, typeOf(field), required ? 'required' : defaultOf(field), field.description ?? '']
    const inner = field.items?.properties === undefined ? fieldRows(field, `${at}.`) : fieldRows(field.items, `${at}[].`)
    return [row, ...inner]
  })
}

function typeOf(schema: Schema): string {
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split('/').at(-1) ?? ''
    return `[${name}](#${name.toLowerCase()})`
  }
  if (schema.enum !== undefined) return schema.enum.map((value) => `\`${String(value)}\``).join(' \\| ')
  if (schema.const !== undefined) return `\`${JSON.stringify(schema.const)}\``
  const alternatives = schema.anyOf ?? schema.oneOf
  if (alternatives !== undefined) return [...new Set(alternatives.map(typeOf))].join(' or ')
  if (schema.type === 'array') return `array of ${schema.items === undefined ? 'anything' : typeOf(schema.items)}`
  if (schema.type === 'object') return isMap(schema) ? 'map of strings' : 'object'
  const [type = 'anything'] = [schema.type].flat().filter((each) => each !== undefined)
  return `${type}${rangeOf(schema)}`
}

function isMap(schema: Schema): boolean {
  return schema.properties === undefined && schema.additionalProperties !== undefined && schema.additionalProperties !== false
}

function rangeOf({ minimum, maximum }: Schema): string {
  const low = minimum === undefined || minimum === Number.MIN_SAFE_INTEGER ? undefined : minimum
  const high = maximum === undefined || maximum === Number.MAX_SAFE_INTEGER ? undefined : maximum
  if (low === undefined && high === undefined) return ''
  return high === undefined ? ` ≥ ${low}` : ` ${low ?? ''}–${high}`
}

function defaultOf(schema: Schema): string {
  return schema.default === undefined ? '' : `\`${JSON.stringify(schema.default)}\``
}

function renderErrors(): string {
  const rows = Object.entries(catalogue).map(([code, row]: [string, ErrorRow]) => [
    `\`${code}\``,
    String(row.status),
    row.stateStatus === undefined ? row.hint : `${row.hint} From operations on what is there already it comes as ${row.stateStatus}.`,
    row.retry === true ? 'yes' : '',
  ])
  return [
    '## Errors',
    `An answer of status 400 and above is an [Error](#error). Programs go by \`code\`, people by \`message\`, which says what failed, on what, and what to do next.
Errors carry \`x-should-retry: false\` unless trying again by itself is of use; then they carry \`retry-after\`. Any operation may answer \`unauthorized\`, \`forbidden\`,
\`invalid_request\`, \`payload_too_large\` and \`internal_error\`.`,
    table(['Code', 'Status', 'What to do', 'Retry'], rows),
  ].join('\n\n')
}

const answers: Readonly<Record<(typeof absentOperations)[number]['answer'], string>> = {
  none: '200, an empty list',
  missing: '404 `not_found`',
  unsupported: '501 `not_supported`',
}

function renderAbsent(): string {
  const rows = absentOperations.map(({ method, path, answer, what }) => [
    `\`${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}\``,
    answers[answer],
    what,
  ])
  return [
    '## Not built yet',
    'Operations of the official client that are answered truthfully, and no more.',
    table(['Operation', 'Answer', 'What'], rows),
  ].join('\n\n')
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.map((cell) => cell.replaceAll('\n', ' ')).join(' | ')} |`
  return [line(head), `|${head.map(() => '---|').join('')}`, ...rows.map(line)].join('\n')
}

function capitalised(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1)
}
