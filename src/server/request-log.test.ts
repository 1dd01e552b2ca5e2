// What is told of requests to those who listen, and who may read the metrics.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { serveFakes, tokenWith, until } from '../../tests/support/http-server.ts'
import { instanceView } from '../../tests/support/fake-services.ts'
import { openAuditLog, type AuditLine } from '../telemetry/audit.ts'
import type { AnsweredRequest, RequestListener } from '../telemetry/types.ts'

function noting(): { readonly listener: RequestListener; readonly answered: AnsweredRequest[]; readonly ended: AnsweredRequest[] } {
  const [answered, ended]: [AnsweredRequest[], AnsweredRequest[]] = [[], []]
  return { answered, ended, listener: { answered: (one) => answered.push(one), ended: (one) => ended.push(one) } }
}

type Told = Pick<AnsweredRequest, 'operation' | 'status' | 'changes' | 'target' | 'subject' | 'code' | 'answered'>
const json = { 'content-type': 'application/json' }

const rows: readonly (readonly [what: string, ask: readonly [path: string, init?: object], told: Partial<Told>])[] = [
  ['a look', ['/instances/web'], { operation: 'getInstance', status: 200, changes: false, target: 'web' }],
  [
    'a change',
    ['/instances/web/stop', { method: 'POST' }],
    { operation: 'stopInstance', status: 200, changes: true, target: 'web', subject: 'tests', answered: { id: 'id-of-web', name: 'web' } },
  ],
  [
    'a change that is refused',
    ['/instances/none/stop', { method: 'POST' }],
    { operation: 'stopInstance', status: 404, changes: true, target: 'none', code: 'not_found', answered: {} },
  ],
  [
    'a change by who has no good token',
    ['/instances/web/stop', { method: 'POST', headers: { authorization: 'Bearer wrong' } }],
    { operation: 'stopInstance', status: 401, changes: true, subject: undefined, code: 'unauthorized' },
  ],
  [
    'a change by who may not',
    ['/instances/web/stop', { method: 'POST', headers: { authorization: `Bearer ${tokenWith(['instance:read'], 'reader')}` } }],
    { operation: 'stopInstance', status: 403, changes: true, subject: 'reader', code: 'forbidden' },
  ],
  [
    'a body that is none',
    ['/instances', { method: 'POST', headers: json, body: '{' }],
    { operation: 'createInstance', status: 400, changes: true },
  ],
  ['what is not built', ['/builds', { method: 'POST' }], { operation: 'createBuild', status: 501, changes: true }],
  [
    'a reading that is a POST',
    ['/snapshots/none/verify', { method: 'POST' }],
    { operation: 'verifySnapshot', status: 404, changes: false },
  ],
  ['no route at all', ['/nowhere/at/all', { method: 'POST' }], { operation: undefined, status: 404, changes: false }],
]
for (const [what, [path, init], told] of rows)
  test(`told of ${what}`, async () => {
    const { listener, answered, ended } = noting()
    await using server = await serveFakes({ listeners: [listener] })
    server.services.instancesById.set('web', instanceView('web', 'Running'))
    await (await server.fetch(path, init)).text()
    await until(() => ended.length > 0)
    assert.deepEqual(answered, ended)
    const [seen] = ended
    for (const [key, value] of Object.entries(told)) assert.deepEqual(seen?.[key as keyof Told], value, key)
    assert.equal(seen?.remoteAddress, '127.0.0.1')
  })

test('an upgraded connection is answered when it begins, and ended when it has', async () => {
  const { listener, answered, ended } = noting()
  await using server = await serveFakes({ listeners: [listener] })
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  const socket = server.open('/instances/web/exec')
  await once(socket, 'open')
  await until(() => answered.length === 1)
  assert.equal(ended.length, 0)
  const [opened] = answered
  assert.deepEqual([opened?.operation, opened?.status, opened?.changes, opened?.subject], ['execInInstance', 101, true, 'tests'])
  socket.close()
  await until(() => ended.length === 1)
  assert.equal(answered.length, 1)
})

test('a change goes on when the audit log can’t be written', async () => {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'hypeman-audit-'))
  const failed: AuditLine[] = []
  await using audit = openAuditLog({
    ...{ file: directory, maxBytes: 1_000, files: 2 },
    told: () => undefined,
    failed: (line) => failed.push(line),
  })
  await using server = await serveFakes({ listeners: [audit.requests] })
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  for (const _ of [1, 2]) assert.equal((await server.fetch('/instances/web/stop', { method: 'POST' })).status, 200)
  await until(() => failed.length === 2)
  assert.deepEqual(
    failed.map(({ operation, subject, status }) => [operation, subject, status]),
    [1, 2].map(() => ['stopInstance', 'tests', 200]),
  )
  await rm(directory, { recursive: true })
})

test('metrics need a token that may read resources, unless they are for all', async () => {
  const read = async () => ({ type: 'text/plain; version=0.0.4; charset=utf-8', text: 'up 1\n' })
  const statusFor = async (isPublic: boolean, headers: Readonly<Record<string, string>>): Promise<number> => {
    await using server = await serveFakes({ metrics: { isPublic, read } })
    const answer = await fetch(`${server.url}/metrics`, { headers })
    if (answer.status === 200) assert.deepEqual([await answer.text(), answer.headers.get('content-type')], ['up 1\n', (await read()).type])
    return answer.status
  }
  const bearer = (scopes: readonly string[] | undefined) => ({ authorization: `Bearer ${tokenWith(scopes)}` })
  assert.equal(await statusFor(false, {}), 401)
  assert.equal(await statusFor(false, bearer(['instance:read'])), 403)
  assert.equal(await statusFor(false, bearer(['resource:read'])), 200)
  assert.equal(await statusFor(false, bearer(undefined)), 200)
  assert.equal(await statusFor(true, {}), 200)
})
