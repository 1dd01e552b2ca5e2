// Where an upload goes on: through the gateway if it is the same registry, and nowhere else.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import fc from 'fast-check'
import { atRegistry, inGateway, sendOn } from './gateway-upload.ts'

const behind = { origin: 'https://registry.example.com', token: 'token', before: '/v2/secret/' }
const wanted = 'https://registry.example.com/v2/team/app/blobs/uploads/'

test('a place at the same registry, absolute or not, becomes a path of the gateway with its query', () => {
  const segment = fc.stringMatching(/^[a-z0-9-]{1,20}$/)
  fc.assert(
    fc.property(fc.array(segment, { minLength: 1, maxLength: 5 }), segment, fc.boolean(), (path, state, isAbsolute) => {
      const place = `/v2/${path.join('/')}?_state=${state}`
      assert.equal(inGateway(`${isAbsolute ? behind.origin : ''}${place}`, wanted, behind), `/v2/secret/${path.join('/')}?_state=${state}`)
    }),
  )
  assert.equal(inGateway('some-upload', wanted, behind), '/v2/secret/team/app/blobs/uploads/some-upload')
})

test('whatever place at the registry an upload goes on at, the path of the gateway leads there', () => {
  const segment = fc.stringMatching(/^[a-zA-Z0-9._~-]{1,20}$/)
  fc.assert(
    fc.property(fc.array(segment, { minLength: 1, maxLength: 5 }), segment, (path, state) => {
      const { href } = new URL(`${behind.origin}/${path.join('/')}?upload_id=${state}`)
      const inside = inGateway(href, wanted, behind)
      assert.ok(inside.startsWith(behind.before))
      assert.equal(new URL(atRegistry(inside, behind)).href, href)
    }),
  )
})

test('a place elsewhere is refused: the token is not for it', () => {
  const places = [
    'https://storage.example.com/v2/team/app',
    'http://registry.example.com/v2/team/app',
    'https://registry.example.com:444/v2/x',
    '//evil.example.com/v2/x',
  ]
  for (const place of places) assert.throws(() => inGateway(place, wanted, behind), /not for/, place)
})

async function listening(answer: RequestListener): Promise<{ readonly origin: string } & AsyncDisposable> {
  const server = createServer(answer).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

test('where a finished upload is may be anywhere, and is not told; where one goes on may not', async () => {
  const place = 'https://storage.example.com/somewhere'
  await using registry = await listening((request, response) => {
    response.writeHead(Number(request.url?.split('/').at(-1)), { location: place, 'docker-content-digest': 'sha256:0' }).end()
  })
  const refusals: unknown[] = []
  await using gateway = await listening((request, response) => {
    const to = { ...behind, origin: registry.origin }
    sendOn(request, response, atRegistry(request.url ?? '', to), to).catch((error: unknown) => {
      refusals.push(error)
      response.writeHead(502).end()
    })
  })
  const answerTo = (status: number): Promise<Response> =>
    fetch(`${gateway.origin}/v2/secret/team/${status}`, { method: 'PUT', body: 'x', redirect: 'manual' })
  const done = await answerTo(201)
  assert.deepEqual([done.status, done.headers.get('location'), done.headers.get('docker-content-digest')], [201, null, 'sha256:0'])
  assert.deepEqual(refusals, [])
  for (const status of [202, 307]) assert.equal((await answerTo(status)).status, 502, String(status))
  assert.match(String(refusals[0]), /not for/)
  assert.equal(refusals.length, 2)
})
