// Looks that are taken when somebody asks: once at a time, not more often than needed, and nobody waits long.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sampled } from './sampled.ts'

function looking(patienceMs: number) {
  const clock = { ms: 0 }
  const looks: PromiseWithResolvers<number>[] = []
  const failures: unknown[] = []
  const sampled = new Sampled<number>({
    look: () => {
      const one = Promise.withResolvers<number>()
      looks.push(one)
      return one.promise
    },
    freshMs: 1_000,
    patienceMs,
    failed: (error) => failures.push(error),
    now: () => clock.ms,
  })
  return { clock, looks, failures, sampled }
}

test('whoever asks while a look is under way gets that one, and a young one is good enough', async () => {
  const { clock, looks, sampled } = looking(60_000)
  const answers = Promise.all([sampled.value(), sampled.value()])
  looks[0]?.resolve(1)
  assert.deepEqual(await answers, [1, 1])
  clock.ms = 999
  assert.equal(await sampled.value(), 1)
  assert.equal(looks.length, 1)
  clock.ms = 1_000
  const next = sampled.value()
  looks[1]?.resolve(2)
  assert.equal(await next, 2)
})

test('a look that takes long keeps nobody: the last one is the answer until it has ended', async () => {
  const { clock, looks, sampled } = looking(0)
  assert.equal(await sampled.value(), undefined)
  looks[0]?.resolve(1)
  assert.equal(await sampled.value(), 1)
  clock.ms = 5_000
  assert.equal(await sampled.value(), 1)
  assert.equal(looks.length, 2)
})

test('a look that fails is told, the last one stays, and the next who asks looks again', async () => {
  const { clock, looks, failures, sampled } = looking(60_000)
  const first = sampled.value()
  looks[0]?.resolve(1)
  await first
  clock.ms = 2_000
  const failing = sampled.value()
  looks[1]?.reject(new Error('the disk fails'))
  assert.equal(await failing, 1)
  assert.match(String(failures[0]), /the disk fails/)
  void sampled.value()
  assert.equal(looks.length, 3)
  looks[2]?.resolve(3)
  assert.equal(await sampled.value(), 3)
})

test('after the end nothing is looked at any more', async () => {
  const { looks, sampled } = looking(60_000)
  sampled[Symbol.dispose]()
  assert.equal(await sampled.value(), undefined)
  assert.equal(looks.length, 0)
})
