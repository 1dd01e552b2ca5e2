// Instances whose time is over are deleted; those whose time is not are left alone; a deletion that fails is tried again. Time is the test's.

import assert from 'node:assert/strict'
import { access } from 'node:fs/promises'
import { mock, test } from 'node:test'
import { pino } from 'pino'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import { until } from '../../tests/support/until.ts'
import type { InstanceEntry } from '../instances/index.ts'
import { startExpiry } from './expire.ts'

const log = pino({ level: 'silent' })
const inMs = (ms: number): string => new Date(Date.now() + ms).toISOString()

/** A second of the job's, with all that it begins. */
function tick(): void {
  mock.timers.tick(1_000)
}

function withClock(): Disposable {
  mock.timers.enable({ apis: ['setInterval'] })
  return { [Symbol.dispose]: () => mock.timers.reset() }
}

const isThere = (world: TestContext, entry: InstanceEntry): boolean => world.context.store.byId(entry.id) !== undefined

test('an instance is deleted with its directory once its time is over, and others are not', async () => {
  using _clock = withClock()
  await using world = await testContext()
  const over = await world.add({ expiresAt: inMs(-1) })
  const later = await world.add({ expiresAt: inMs(60_000) })
  const never = await world.add()
  using _job = startExpiry(world.context, log, () => undefined)
  assert.ok(isThere(world, over))
  tick()
  await until('the instance is gone', () => !isThere(world, over))
  await assert.rejects(access(world.context.layout.instance(over.id)))
  assert.ok(isThere(world, later) && isThere(world, never))
})

test('an expiry that is moved or cleared in time counts', async () => {
  using _clock = withClock()
  await using world = await testContext()
  const [moved, cleared, over] = await Promise.all([1, 2, 3].map(() => world.add({ expiresAt: inMs(-1) })))
  if (moved === undefined || cleared === undefined || over === undefined) throw new Error('three were added')
  await world.context.store.update(moved, { expiresAt: inMs(60_000) })
  await world.context.store.update(cleared, { expiresAt: null })
  using _job = startExpiry(world.context, log, () => undefined)
  tick()
  await until('the one that is over is gone', () => !isThere(world, over))
  assert.ok(isThere(world, moved) && isThere(world, cleared))
})

test('a deletion that fails is tried again at the next look, and only one at a time', async () => {
  using _clock = withClock()
  await using world = await testContext()
  const entry = await world.add({ expiresAt: inMs(-1) })
  let attempts = 0
  const first = Promise.withResolvers<void>()
  entry.machine = {
    ...stateOnly('running'),
    async kill() {
      attempts += 1
      if (attempts > 1) return
      await first.promise
      throw new Error('the process does not end')
    },
  }
  using _job = startExpiry(world.context, log, () => undefined)
  tick()
  await until('it is tried', () => attempts === 1)
  tick()
  tick()
  assert.equal(attempts, 1)
  first.resolve()
  await until('it is tried again', () => {
    tick()
    return attempts === 2
  })
  await until('the instance is gone', () => !isThere(world, entry))
})

test('after it is disposed of, nothing is deleted any more', async () => {
  using _clock = withClock()
  await using world = await testContext()
  const entry = await world.add({ expiresAt: inMs(-1) })
  startExpiry(world.context, log, () => undefined)[Symbol.dispose]()
  tick()
  await world.context.events.written(entry.id)
  assert.ok(isThere(world, entry))
})
