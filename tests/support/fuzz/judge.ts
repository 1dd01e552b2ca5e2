// What every answer must be: a documented one. A success fits the schema of its status; an error is a row of the error table that the operation names,
// with the row's status; nothing says more of the server's inside than a request id.

import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { catalogue, type ErrorRow } from '../../../src/api/errors.ts'
import type { Described } from '../wire/described.ts'
import { errorSchema, type FuzzRequest } from './requests.ts'
import type { Answer } from './send.ts'

/** Any operation may answer these (docs/api.md). */
const everywhere = new Set(['unauthorized', 'forbidden', 'invalid_request', 'payload_too_large', 'route_not_found', 'canceled'])

export type Judge = (asked: FuzzRequest, answer: Answer) => string[]

/** A judge that tells what is wrong with an answer, one sentence each. */
export function createJudge(): Judge {
  const ajv = new Ajv2020({ strict: false, allErrors: true })
  addFormats.default(ajv)
  const fits = (schema: unknown, value: unknown): string[] => {
    if (ajv.validate(schema as object, value)) return []
    return (ajv.errors ?? []).map((error) => `the answer does not fit its schema: ${error.instancePath} ${error.message ?? ''}`)
  }
  return (asked, answer) => {
    if (answer.text !== undefined && /\n\s+at \S+ \(|node_modules|\.ts:\d+/.test(answer.text)) return ['the answer has a stack trace in it']
    if (answer.requestId === undefined) return ['the answer has no x-request-id']
    if (answer.status >= 400) return judgeError(asked, answer)
    if (answer.status >= 300) return [`status ${answer.status}`]
    return asked.method === asked.operation.method ? judgeSuccess(asked.operation, answer, fits) : []
  }
}

function judgeError({ operation, method, target, isTooLarge }: FuzzRequest, { status, type, text = '' }: Answer): string[] {
  if (!type.startsWith('application/json')) return [`an error of type ${type}: ${text.slice(0, 200)}`]
  const { data: error } = errorSchema.safeParse(parsed(text))
  if (error === undefined) return [`an error that is none of ours: ${text.slice(0, 200)}`]
  const row: ErrorRow | undefined = Object.entries(catalogue).find(([code]) => code === error.code)?.[1]
  if (row === undefined) return [`the code ${error.code} is not in the error table`]
  if (row.status !== status && row.stateStatus !== status)
    return [`${error.code} has status ${row.status} in the error table, and ${status} here`]
  if (error.code === 'internal_error') return [`a fault of the server (${error.request_id ?? 'without its request id'})`]
  // The host, the guests and the disk are in order, and no registry is asked: what else the server can't do would be its own fault, whatever is documented.
  if (status >= 500 && error.code !== 'not_supported') return [`status ${status}, ${error.code}: ${error.message.slice(0, 200)}`]
  const mustBeTooLarge =
    isTooLarge && method === operation.method && operation.requestBody !== undefined && !isUnread(operation) && isPath(target)
  if (mustBeTooLarge && error.code !== 'payload_too_large') return [`a body that is too large is answered with ${error.code}`]
  if (everywhere.has(error.code) || operation['x-error-codes'].includes(error.code)) return []
  return [`${operation.operationId} answers ${error.code} and does not name it: ${error.message.slice(0, 200)}`]
}

/** Whether a path can be read; one that can't is refused before its body. */
function isPath(target: string): boolean {
  try {
    decodeURIComponent(target.split('?', 1)[0] ?? '')
    return target.length < 4096
  } catch {
    return false
  }
}

/** Operations that are not built refuse each request before its body is read. */
function isUnread(operation: Described): boolean {
  return operation['x-error-codes'].includes('not_supported') && operation.description?.startsWith('Not built yet') === true
}

function judgeSuccess(
  { operationId, responses }: Described,
  { status, type, text }: Answer,
  fits: (schema: unknown, value: unknown) => string[],
): string[] {
  const described = responses[String(status)]
  if (described === undefined) return [`${operationId} does not name status ${status}`]
  if (status === 204) return text === '' ? [] : ['204 with a body']
  if (text === undefined) return []
  const media = Object.entries(described.content ?? {}).find(([name]) => type.startsWith(name))?.[1]
  if (media === undefined) return [`${operationId} does not name the type ${type}`]
  if (!type.startsWith('text/event-stream')) return fits(media.schema, type.startsWith('application/json') ? parsed(text) : text)
  return text
    .split('\n\n')
    .flatMap((frame) => frame.split('\n'))
    .flatMap((line) => (line.startsWith('data: ') ? fits(media.schema, parsed(line.slice('data: '.length))) : []))
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // which fits nothing that is asked for
  }
}
