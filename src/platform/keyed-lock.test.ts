import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isHypemanError } from '../api/errors.ts'
import { KeyedLock } from './keyed-lock.ts'

const options = { waitMs: 5_000, what: 'instance a' }

test('a second writer of the same key waits for the first, in order of arrival', async () => {
  const lock = new KeyedLock()
  const order: number[] = []
  const first = await lock.acquire('a', options)
  const others = [1, 2, 3].map(async (n) => {
    using _held = await lock.acquire('a', options)
    order.push(n)
  })
  order.push(0)
  first[Symbol.dispose]()
  await Promise.all(others)
  assert.deepEqual(order, [0, 1, 2, 3])
})

test('writers of different keys do not wait for each other', async () => {
  const lock = new KeyedLock()
  using _a = await lock.acquire('a', options)
  using b = await lock.acquire('b', options)
  assert.equal(b.key, 'b')
})

test('readers share a key, and a waiting writer goes before readers that come later', async () => {
  const lock = new KeyedLock()
  const order: string[] = []
  const one = await lock.acquire('a', { ...options, shared: true })
  const two = await lock.acquire('a', { ...options, shared: true })
  const writer = lock.acquire('a', options).then((held) => {
    order.push('writer')
    held[Symbol.dispose]()
  })
  const late = lock.acquire('a', { ...options, shared: true }).then((held) => {
    order.push('reader')
    held[Symbol.dispose]()
  })
  one[Symbol.dispose]()
  two[Symbol.dispose]()
  await Promise.all([writer, late])
  assert.deepEqual(order, ['writer', 'reader'])
})

test('a wait that is over its bound ends in `busy`, and the lock stays usable', async () => {
  const lock = new KeyedLock()
  const held = await lock.acquire('a', options)
  await assert.rejects(lock.acquire('a', { waitMs: 5, what: 'instance a' }), (error) => isHypemanError(error, 'busy'))
  held[Symbol.dispose]()
  held[Symbol.dispose]()
  using again = await lock.acquire('a', { waitMs: 5, what: 'instance a' })
  assert.equal(again.key, 'a')
})
