// Verification over HTTP: one answer, or a stream if that is asked for; a caller without the scope gets neither.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { serveFakes, tokenWith } from '../../tests/support/http-server.ts'
import { instanceView } from '../../tests/support/fake-services.ts'

const found = { snapshot_id: 'snapshot0', status: 'ok', ms: 1, read_bytes: 10 }
const files = [{ name: 'snapshot.json', status: 'ok', size_bytes: 10, read_bytes: 10 }]

test('a verification is answered whole, or step by step as events, of one snapshot or all', async () => {
  await using server = await serveFakes()
  server.services.instancesById.set('web', instanceView('web', 'Running'))
  await server.services.snapshots.create('web', { kind: 'Standby' }, 'tests')
  const post = (path: string, headers: Readonly<Record<string, string>> = {}) => server.fetch(path, { method: 'POST', headers })

  assert.deepEqual(await (await post('/snapshots/snapshot0/verify')).json(), { ...found, files })
  assert.deepEqual(await (await post('/snapshots/verify')).json(), [{ ...found, files }])
  for (const path of ['/snapshots/snapshot0/verify', '/snapshots/verify']) {
    const stream = await post(path, { accept: 'text/event-stream' })
    assert.equal(stream.headers.get('content-type'), 'text/event-stream')
    const events = (await stream.text()).trim().split('\n\n')
    assert.deepEqual(
      events.map((event) => JSON.parse(event.replace(/^data: /, '')) as unknown),
      [
        { type: 'progress', snapshot_id: 'snapshot0', file: 'snapshot.json', done_bytes: 10, total_bytes: 10 },
        { type: 'result', ...found, files },
      ],
    )
  }
  for (const accept of ['application/json', 'text/event-stream']) {
    const missing = await post('/snapshots/none/verify', { accept })
    assert.deepEqual([missing.status, ((await missing.json()) as { readonly code: string }).code], [404, 'not_found'])
  }
  const forbidden = await post('/snapshots/verify', { authorization: `Bearer ${tokenWith(['instance:read'])}` })
  assert.equal(forbidden.status, 403)
})
