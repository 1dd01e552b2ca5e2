import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { pino } from 'pino'
import { until } from '../../tests/support/until.ts'
import { stateOnly } from '../../tests/support/instance-context.ts'
import type { ProcessEnd } from '../platform/process.ts'
import { Spares, type Spare } from './spares.ts'

/** Makes spares that are nothing but counted. */
function factory() {
  const living = new Set<string>()
  const ends = new Map<string, (end: ProcessEnd) => void>()
  let made = 0
  const make = async (): Promise<Spare> => {
    await Promise.resolve()
    const id = `spare-${(made += 1)}`
    living.add(id)
    const { promise: exited, resolve } = Promise.withResolvers<ProcessEnd>()
    ends.set(id, resolve)
    const end = (): Promise<void> => {
      living.delete(id)
      resolve({ code: null, reason: 'ended' })
      return Promise.resolve()
    }
    const staged = { path: `/staging/${id}`, commit: () => Promise.resolve(), [Symbol.asyncDispose]: () => Promise.resolve() }
    return { id, mac: null, staged, machine: { ...stateOnly('paused'), exited }, [Symbol.asyncDispose]: end }
  }
  return { make, living, crash: (id: string) => ends.get(id)?.({ code: 1, reason: 'it crashed' }) }
}

function sparesOf(most: number, unusedMs = 60_000): Spares {
  return new Spares({ log: pino({ level: 'silent' }), most, unusedMs, quietMs: 1 })
}

/** Lets so much time pass, and all be done that is due by then. */
async function pass(t: TestContext, ms: number): Promise<void> {
  t.mock.timers.tick(ms)
  await turn()
}

/** As many forks at once as said, one after the other done. */
function burst(spares: Spares, key: string, make: () => Promise<Spare>, atOnce: number): (Spare | undefined)[] {
  const underWay = Array.from({ length: atOnce }, () => spares.begin(key, make))
  const taken = underWay.map((fork) => fork.take())
  for (const fork of underWay) fork[Symbol.dispose]()
  return taken
}

test('as many are loaded ahead as were forked at once, up to the limit, and only when no fork is under way', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { make } = factory()
  const spares = sparesOf(4)
  using another = spares.begin('other', make)
  burst(spares, 'one', make, 3)
  await pass(t, 1_000)
  assert.equal(spares.ready, 0)
  another[Symbol.dispose]()
  await pass(t, 1_000)
  assert.equal(spares.ready, 4)
  burst(spares, 'one', make, 10)
  assert.equal(spares.ready, 1)
  await pass(t, 1_000)
  assert.equal(spares.ready, 4)
  await spares.close()
})

test('each is used once, and what is used is made anew', async () => {
  const { make, living } = factory()
  const spares = sparesOf(8)
  assert.deepEqual(burst(spares, 'one', make, 2), [undefined, undefined])
  await until('they are made', () => spares.ready === 2)
  const taken = burst(spares, 'one', make, 2).map((spare) => spare?.id)
  assert.deepEqual(taken, ['spare-1', 'spare-2'])
  await until('two more are made', () => spares.ready === 2)
  await spares.close()
  // Those that were taken are their takers'.
  assert.deepEqual([...living], taken)
})

test('what is dropped or closed is ended, also what is being made meanwhile', async () => {
  const { make, living } = factory()
  const spares = sparesOf(4)
  burst(spares, 'gone', make, 1)
  await until('it is made', () => spares.ready === 1)
  await spares.drop('gone')
  assert.deepEqual([spares.ready, living.size], [0, 0])
  const { promise: asked, resolve: begin } = Promise.withResolvers<void>()
  const { promise: may, resolve: go } = Promise.withResolvers<void>()
  burst(
    spares,
    'slow',
    async () => {
      begin()
      await may
      return await make()
    },
    1,
  )
  await asked
  const closing = spares.close()
  go()
  await closing
  assert.deepEqual([spares.ready, living.size], [0, 0])
})

test('one whose VMM has ended by itself is not handed out', async () => {
  const { make, crash, living } = factory()
  const spares = sparesOf(4)
  burst(spares, 'one', make, 1)
  await until('it is made', () => spares.ready === 1)
  crash('spare-1')
  await until('it is seen', () => spares.ready === 0)
  assert.deepEqual(burst(spares, 'one', make, 1), [undefined])
  assert.equal(living.size, 0)
  await spares.close()
})

test('those of the snapshot that was forked last take the place of older ones', async () => {
  const { make, living } = factory()
  const spares = sparesOf(2)
  burst(spares, 'old', make, 2)
  await until('they are made', () => spares.ready === 2)
  burst(spares, 'new', make, 1)
  await until('the new one is there', () => living.has('spare-3') && spares.ready === 2)
  assert.notEqual(burst(spares, 'new', make, 1)[0], undefined)
  await spares.close()
})

test('those of a snapshot that is not forked any more are ended', async () => {
  const { make, living } = factory()
  const spares = sparesOf(2, 30)
  burst(spares, 'one', make, 2)
  await until('they are made', () => spares.ready === 2)
  await until('they are ended', () => spares.ready === 0 && living.size === 0)
  await spares.close()
})

test('after one that could not be made none is tried until the next fork', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let tried = 0
  const spares = sparesOf(4)
  const make = (): Promise<Spare> => {
    tried += 1
    return Promise.reject(new Error('no room'))
  }
  burst(spares, 'one', make, 3)
  await pass(t, 1_000)
  await pass(t, 1_000)
  assert.equal(tried, 1)
  burst(spares, 'one', make, 1)
  await pass(t, 1_000)
  assert.equal(tried, 2)
  await spares.close()
})

test('with a limit of none, and when they are closed, nothing is made', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { make, living } = factory()
  const [none, closed] = [sparesOf(0), sparesOf(4)]
  await closed.close()
  burst(none, 'one', make, 3)
  burst(closed, 'one', make, 3)
  await pass(t, 1_000)
  assert.equal(living.size, 0)
})
