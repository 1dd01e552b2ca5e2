// Sealed text opens to what it was, for what it was sealed for, under the keys that the server has, and to nothing otherwise.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createSealer } from './sealing.ts'

const sealer = createSealer(['a key of some length'])

test('any text comes back, for what it was sealed for alone', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), fc.string(), fc.string(), (text, about, other) => {
      const sealed = sealer.seal(text, about)
      assert.equal(sealer.open(sealed, about), text)
      if (other !== about) assert.equal(sealer.open(sealed, other), undefined)
    }),
  )
})

test('no byte of it can be changed, left out or put before', () => {
  const sealed = sealer.seal('a secret of mine', 'me')
  const bytes = Buffer.from(sealed.data, 'base64')
  const changed = (data: Buffer): string | undefined => sealer.open({ ...sealed, data: data.toString('base64') }, 'me')
  for (let at = 0; at < bytes.length; at += 1) {
    const copy = Buffer.from(bytes)
    copy.writeUInt8((copy.readUInt8(at) + 1) % 256, at)
    assert.equal(changed(copy), undefined, `byte ${at}`)
    assert.equal(changed(bytes.subarray(0, at)), undefined, `the first ${at} bytes`)
  }
  assert.equal(changed(Buffer.concat([Buffer.alloc(1), bytes])), undefined)
  assert.equal(sealer.open({ ...sealed, nonce: '' }, 'me'), undefined)
})

test('the same text is never sealed to the same bytes, and is not in them', () => {
  const sealed = Array.from({ length: 100 }, () => sealer.seal('hunter2 hunter2', 'me'))
  assert.equal(new Set(sealed.map(({ data }) => data)).size, 100)
  assert.equal(new Set(sealed.map(({ nonce }) => nonce)).size, 100)
  for (const { data } of sealed) assert.equal(Buffer.from(data, 'base64').includes('hunter2'), false)
})

test('what the key before has sealed is opened, and known for not being of the present one; without that key it stays closed', () => {
  const before = createSealer(['the key before this one'])
  const sealed = before.seal('text', 'me')
  const rotated = createSealer(['the key that is used now', 'the key before this one'])
  assert.equal(rotated.open(sealed, 'me'), 'text')
  assert.deepEqual([before.isCurrent(sealed), rotated.isCurrent(sealed)], [true, false])
  const anew = rotated.seal('text', 'me')
  assert.equal(before.open(anew, 'me'), undefined)
  assert.equal(createSealer(['the key that is used now']).open(anew, 'me'), 'text')
})
