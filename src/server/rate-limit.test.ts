// How often one subject may ask, and who is not counted.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { serveFakes, tokenWith } from '../../tests/support/http-server.ts'

const metrics = { isPublic: true, read: async () => ({ type: 'text/plain; charset=utf-8', text: 'up 1\n' }) }

test('whoever asks too often is told when to go on, in the words of every other error; others are not kept', async () => {
  await using server = await serveFakes({ requestsPerMinute: 3 })
  for (const _ of [1, 2, 3]) assert.equal((await server.fetch('/instances')).status, 200)
  const refused = await server.fetch('/volumes')
  assert.equal(refused.status, 429)
  const seconds = Number(refused.headers.get('retry-after'))
  assert.ok(Number.isInteger(seconds) && seconds > 2 && seconds <= 60, `${seconds}`)
  const body = (await refused.json()) as { readonly code: string; readonly message: string }
  assert.equal(body.code, 'rate_limited')
  assert.match(body.message, /^tests may ask 3 times a minute; go on in \d+ s$/)
  const other = { authorization: `Bearer ${tokenWith(undefined, 'somebody else')}` }
  assert.equal((await server.fetch('/volumes', { headers: other })).status, 200)
})

test('health and metrics are not counted, nor is who has no good token: they get nothing anyway', async () => {
  await using server = await serveFakes({ requestsPerMinute: 2, metrics })
  for (const _ of [1, 2, 3, 4]) {
    assert.equal((await server.fetch('/health')).status, 200)
    assert.equal((await server.fetch('/metrics')).status, 200)
    assert.equal((await server.fetch('/instances', { headers: { authorization: 'Bearer wrong' } })).status, 401)
  }
  assert.equal((await server.fetch('/instances')).status, 200)
})

test('all ways into the API are counted together: plain routes, uploads, and what is not built', async () => {
  await using server = await serveFakes({ requestsPerMinute: 2 })
  assert.equal((await server.fetch('/builds')).status, 200)
  assert.equal((await server.fetch('/instances')).status, 200)
  for (const path of ['/builds', '/instances']) assert.equal((await server.fetch(path)).status, 429)
  const upload = await server.fetch('/images/import?name=a', {
    method: 'POST',
    body: 'x',
    headers: { 'content-type': 'application/x-tar' },
  })
  assert.equal(upload.status, 429)
})

test('without a limit nobody is counted', async () => {
  await using server = await serveFakes()
  const answer = await server.fetch('/instances')
  assert.deepEqual(
    [...answer.headers.keys()].filter((name) => name.startsWith('x-ratelimit')),
    [],
  )
})
