// Requests out of the description of an operation: its path with odd ids, its query, its body in many wrong ways.

import fc from 'fast-check'
import { z } from 'zod'
import type { Described } from '../wire/described.ts'
import { oddText, oddValue, valueOf, type Manner } from './values.ts'

export interface FuzzRequest {
  readonly operation: Described
  readonly method: string
  /** As it is sent: path and query. `{live}` stands for the id of something that is there. */
  readonly target: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer | undefined
  /** A body of JSON that is longer than any that is taken. */
  readonly isTooLarge: boolean
}

/** Few names, so that requests meet what others made, and little is ever there. */
const names = ['fuzz-1', 'fuzz-2', 'fuzz-3', 'fuzz-4']
const name = fc.constantFrom(...names)
/** No names at all, so that no registry is asked for them. */
const noNames = ['UPPER CASE', ':', '@', 'a b', ''] as const
const noReference = fc.constantFrom(...noNames)
/** Nobody listens there: an image of that name is not here, and a push to it begins and fails later. */
const reference = fc.constantFrom('127.0.0.1:1/nobody/listens:1', ...noNames)

const careful: Manner = {
  isWild: false,
  hints: {
    name,
    image: fc.constant('hypeman/base'),
    size: fc.constant('64MB'),
    overlay_size: fc.constant('16MB'),
    hotplug_size: fc.constant('1GB'),
    vcpus: fc.constant(1),
    volumes: fc.constant([]),
    devices: fc.constant([]),
    ttl: fc.constantFrom('10m', '0s'),
    hypervisor: fc.constant('qemu'),
    platform: fc.constant('linux/amd64'),
    size_gb: fc.constant(1),
    timeout: fc.constantFrom('0s', '1ms', '20ms'),
    path: fc.constantFrom('/', '/etc'),
    from_running: fc.constant(true),
    enabled: fc.constant(false),
    // What can't be done yet, or does not go with everything else, is refused as a whole.
    ...Object.fromEntries(
      [
        'disk_io_bps',
        'bandwidth_download',
        'bandwidth_upload',
        'expires_at',
        'health_check',
        'restart_policy',
        'auto_standby',
        'gpu',
        'credentials',
        'inherit_secrets',
      ].map((field) => [field, fc.constant(undefined)]),
    ),
  },
}

const wild: Manner = {
  isWild: true,
  hints: {
    name: fc.oneof(name, oddText),
    image: fc.oneof({ weight: 9, arbitrary: fc.constant('hypeman/base') }, { weight: 1, arbitrary: noReference }),
    // Those that are not on this host are answered with 503, rightly: error-paths.test.ts asks for them.
    hypervisor: fc.constantFrom('qemu', 'xen'),
    target_hypervisor: fc.constantFrom('qemu', 'xen'),
    size: fc.constantFrom('64MB', '64MB', '64mb', '1B', '-1GB', '9999999999TB', '64', 'MB'),
    overlay_size: fc.constantFrom('16MB', '16mb', '0B', '99999999999PB'),
    vcpus: fc.constantFrom(1, 1, 0, 999_999),
    // A filesystem is made, so only small ones and ones that are refused.
    size_gb: fc.constantFrom(1, 1, 0, -1, 65_537, 1e12),
    timeout: fc.constantFrom('0s', '1ms', '-1s', '1', 's', '', '99999999999999999999h1'),
    ttl: fc.constantFrom('10m', '0s', '-1s', 'soon', '9999999h'),
    volume_id: name,
    path: fc.constantFrom('/', '/etc', '', 'x', '/\0', '/../..'),
  },
  hintedAlone: new Set(['image']),
}
/** Names of images reach a registry when they are pulled, but for those that were made here. */
const pull = (manner: Manner): Manner => hinted(manner, 'name', fc.constantFrom('hypeman/base', ...noNames))
/** And targets when something is pushed there. */
const push = (manner: Manner): Manner => hinted(manner, 'target', reference)

function hinted(manner: Manner, field: string, values: fc.Arbitrary<unknown>): Manner {
  const { hints, hintedAlone = new Set() } = manner
  return { ...manner, hints: { ...hints, [field]: values }, hintedAlone: new Set([...hintedAlone, field]) }
}

/** Segments that name other operations. */
const taken = new Set(['events', 'import', 'available', 'verify', 'from-archive'])

const encodedOdd = fc.oneof(
  oddText.map((text) => encodeURIComponent(text.toWellFormed())),
  fc.constantFrom(
    '%',
    '%zz',
    '%00',
    '%2',
    '%2F',
    '%252F',
    '%ff',
    '%c0%ae',
    '%E2%82',
    '..',
    '.',
    '*',
    ':id',
    '{live}%20',
    'a;b',
    'a,b',
    'A'.repeat(5000),
  ),
)

const known = fc.oneof({ weight: 1, arbitrary: name }, { weight: 2, arbitrary: fc.constant('{live}') })

function pathOf({ path }: Described, { isWild }: Manner): fc.Arbitrary<string> {
  const template = path.split('/')
  const segment = isWild ? fc.oneof({ weight: 2, arbitrary: known }, { weight: 1, arbitrary: encodedOdd }) : known
  const parts = template.map((part) => {
    if (!part.startsWith('{')) return fc.constant(part)
    return part === '{name}' ? fc.oneof(reference.map(encodeURIComponent), segment) : segment
  })
  return fc.tuple(...parts).map((all) => all.map((part, at) => (taken.has(part) && template[at] !== part ? 'x' : part)).join('/'))
}

function queryOf({ parameters }: Described, manner: Manner): fc.Arbitrary<string> {
  const given = parameters
    .filter((parameter) => parameter.in === 'query')
    .map((parameter) => {
      const value = valueOf(parameter.schema, manner, parameter.name).map((one) => pairsOf(parameter.name, one))
      // Without a time a wait goes on for a minute, so it always has one.
      if (parameter.name === 'timeout') return (manner.hints['timeout'] ?? oddText).map((one) => pairsOf('timeout', one))
      const absent = parameter.required ? (manner.isWild ? 1 : 0) : 10
      return fc.oneof({ weight: 20, arbitrary: value }, { weight: absent, arbitrary: fc.constant('') })
    })
  const more = fc.oneof(
    { weight: 5, arbitrary: fc.constant('') },
    { weight: manner.isWild ? 2 : 0, arbitrary: fc.oneof(tagAbuse, encodedOdd) },
  )
  return fc.tuple(...given, more).map((all) => all.filter((one) => one !== '').join('&'))
}

const tagAbuse = fc.constantFrom(
  ...[
    'tags=x',
    'tags[]=x',
    'tags[a]=1&tags[a]=2',
    'tags[a][b]=1',
    'tags[a=1',
    'tags]a[=1',
    'tags[__proto__]=x',
    'tags[constructor]=x',
    'tags[a]=1&tags=2',
  ],
  ...[
    '__proto__[a]=1',
    'tags%5Ba%5D=%00',
    'tags[%]=%',
    'tags[a]',
    `tags[${'k'.repeat(3000)}]=v`,
    Array.from({ length: 200 }, (_, n) => `tags[k${n}]=v`).join('&'),
  ],
)

function pairsOf(key: string, value: unknown): string {
  const encoded = (text: unknown): string =>
    encodeURIComponent((typeof text === 'string' ? text : (JSON.stringify(text) ?? '')).toWellFormed())
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return `${key}=${encoded(value)}`
  return Object.entries(value)
    .map(([inner, one]) => `${key}[${encoded(inner)}]=${encoded(one)}`)
    .join('&')
}

type Content = Pick<FuzzRequest, 'headers' | 'body' | 'isTooLarge'>

/** Just longer than what is taken, in bytes. */
const TOO_LARGE = 4 * 1024 ** 2 + 1
const content = (type: string, body: Buffer | string, isTooLarge = false): Content => ({
  headers: { 'content-type': type },
  body: Buffer.from(body),
  isTooLarge,
})
const none: Content = { headers: {}, body: undefined, isTooLarge: false }

const wrongBodies: fc.Arbitrary<Content> = fc.oneof(
  fc
    .constantFrom('{', '{"a":', '[1,]', '{"a":1}}', 'nul', '"', '\u0000', '\ufeff{}', '{"a":\u0001}', '['.repeat(100_000))
    .map((text) => content('application/json', text)),
  oddValue.map((value) => content('application/json', JSON.stringify(value) ?? 'undefined')),
  fc.uint8Array({ maxLength: 20 }).map((bytes) => content('application/json', Buffer.from(bytes))),
  fc
    .constantFrom(
      'text/plain',
      'application/xml',
      'multipart/form-data',
      'application/x-www-form-urlencoded',
      'x',
      '',
      '/',
      'application/json;;',
      'APPLICATION/JSON',
    )
    .map((type) => content(type, '{}')),
  fc.constant({ headers: { 'content-type': 'application/json', 'content-length': '0' }, body: undefined, isTooLarge: false }),
)

function bodyOf({ requestBody, path, method }: Described, manner: Manner): fc.Arbitrary<Content> {
  const { isWild } = manner
  const [[type, media] = []] = Object.entries(requestBody?.content ?? {})
  if (type === undefined || media === undefined)
    return fc.oneof({ weight: 8, arbitrary: fc.constant(none) }, { weight: isWild ? 1 : 0, arbitrary: wrongBodies })
  if (type !== 'application/json')
    return fc.oneof(
      fc.uint8Array({ maxLength: 3000 }).map((bytes) => content(type, Buffer.from(bytes))),
      fc.constantFrom(none, content(type, Buffer.alloc(20_000))),
      wrongBodies,
    )
  const isPull = path === '/images' && method === 'POST'
  const fitting = valueOf(media.schema, isPull ? pull(manner) : path === '/pushes' ? push(manner) : manner).map((value) =>
    content('application/json', JSON.stringify(value) ?? ''),
  )
  if (!isWild) return fitting
  return fc.oneof(
    { weight: 30, arbitrary: fitting },
    { weight: 12, arbitrary: isPull ? malformed : wrongBodies },
    { weight: 2, arbitrary: fc.constant(none) },
    { weight: 1, arbitrary: fc.constant(content('application/json', JSON.stringify({ x: 'x'.repeat(TOO_LARGE) }), true)) },
  )
}

/** Says nothing that could be pulled. */
const malformed = fc.constantFrom('{', '[]', '5', '{"name":5}', '{"name":""}').map((text) => content('application/json', text))

const otherMethod = fc.oneof(
  { weight: 20, arbitrary: fc.constant(undefined) },
  { weight: 1, arbitrary: fc.constantFrom('OPTIONS', 'TRACE', 'PUT', 'PROPFIND') },
)

function requestFor(operation: Described, manner: Manner): fc.Arbitrary<FuzzRequest> {
  return fc
    .record({
      path: pathOf(operation, manner),
      query: queryOf(operation, manner),
      sent: bodyOf(operation, manner),
      method: manner.isWild ? otherMethod : fc.constant(undefined),
      accept: fc.constantFrom('*/*', 'text/event-stream'),
    })
    .map(({ path, query, sent, method, accept }) => ({
      operation,
      method: method ?? operation.method,
      target: query === '' ? path : `${path}?${query}`,
      ...sent,
      headers: { ...sent.headers, accept },
    }))
}

/** Half of them are as they should be, so that there is something to meet; of these, what makes things is asked most, what ends them least. */
export function requestsFor(operations: readonly Described[]): fc.Arbitrary<FuzzRequest> {
  const weight = ({ method, path }: Described): number =>
    method === 'DELETE' ? 1 : path === '/instances' || path.endsWith('/snapshots') ? 8 : 3
  return fc.oneof(
    fc.oneof(...operations.map((operation) => ({ weight: weight(operation), arbitrary: requestFor(operation, careful) }))),
    fc.oneof(...operations.map((operation) => requestFor(operation, wild))),
  )
}

export const errorSchema = z.object({
  code: z.string(),
  message: z.string().min(1),
  details: z.array(z.object({ code: z.string().optional(), message: z.string().optional() })).optional(),
  request_id: z.string().optional(),
})
