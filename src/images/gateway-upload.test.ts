// Where an upload goes on: through the gateway if it is the same registry, and nowhere else.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { inGateway } from './gateway-upload.ts'

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

test('a place elsewhere is refused: the token is not for it', () => {
  const places = [
    'https://storage.example.com/v2/team/app',
    'http://registry.example.com/v2/team/app',
    'https://registry.example.com:444/v2/x',
    'https://registry.example.com/other',
    '//evil.example.com/v2/x',
    '/v2/../admin',
  ]
  for (const place of places) assert.throws(() => inGateway(place, wanted, behind), /not for/, place)
})
