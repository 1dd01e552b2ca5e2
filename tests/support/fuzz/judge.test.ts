import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Described } from '../wire/described.ts'
import { createJudge } from './judge.ts'
import type { Answer } from './send.ts'

const judge = createJudge()
const operation: Described = {
  operationId: 'getThing',
  method: 'GET',
  path: '/things/{id}',
  parameters: [],
  responses: {
    '200': {
      content: {
        'application/json': {
          schema: { type: 'object', properties: { id: { type: 'string' } }, required: ['id'], additionalProperties: false },
        },
      },
    },
  },
  'x-error-codes': ['not_found', 'guest_unreachable'],
}
const asked = { operation, method: 'GET', target: '/things/a', headers: {}, body: undefined, isTooLarge: false }
const answer = (status: number, body: unknown, more: Partial<Answer> = {}): Answer => ({
  status,
  type: 'application/json; charset=utf-8',
  requestId: 'a',
  text: typeof body === 'string' ? body : JSON.stringify(body),
  ...more,
})

test('documented answers are let pass', () => {
  for (const good of [
    answer(200, { id: 'a' }),
    answer(404, { code: 'not_found', message: 'there is no thing a' }),
    answer(400, { code: 'invalid_request', message: 'id: it is too long' }),
  ])
    assert.deepEqual(judge(asked, good), [])
})

test('every other answer is found', () => {
  const found: readonly (readonly [RegExp, Answer])[] = [
    [/does not fit its schema/, answer(200, { id: 5 })],
    [/does not fit its schema/, answer(200, { id: 'a', more: 1 })],
    [/does not name status 201/, answer(201, { id: 'a' })],
    [/does not name the type/, answer(200, 'a', { type: 'text/plain' })],
    [/status 302/, answer(302, '')],
    [/x-request-id/, answer(200, { id: 'a' }, { requestId: undefined })],
    [/fault of the server/, answer(500, { code: 'internal_error', message: 'the server failed', request_id: 'b' })],
    [/status 503, guest_unreachable/, answer(503, { code: 'guest_unreachable', message: 'x' })],
    [/none of ours/, answer(400, { error: 'Bad Request' })],
    [/of type text\/html/, answer(502, '<html>', { type: 'text/html' })],
    [/not in the error table/, answer(400, { code: 'odd', message: 'x' })],
    [/has status 404/, answer(400, { code: 'not_found', message: 'x' })],
    [/does not name it/, answer(501, { code: 'not_supported', message: 'x' })],
    [/stack trace/, answer(400, { code: 'invalid_request', message: 'x in server/http.ts:12' })],
  ]
  for (const [complaint, bad] of found) assert.match(judge(asked, bad).join('; '), complaint)
})

test('a body that is too large must be answered so', () => {
  const large = { ...asked, isTooLarge: true, operation: { ...operation, requestBody: { required: true, content: {} } } }
  assert.match(judge(large, answer(400, { code: 'invalid_request', message: 'x' })).join('; '), /too large/)
  assert.deepEqual(judge(large, answer(413, { code: 'payload_too_large', message: 'x' })), [])
})
