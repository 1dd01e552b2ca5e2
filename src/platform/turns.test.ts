import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Turns } from './turns.ts'

const LONG_MS = 60_000
const never = new AbortController().signal

/** Takes a turn and notes it; returns how to end it. */
function visitor(turns: Turns, order: string[]): (name: string, signal?: AbortSignal) => Promise<Disposable> {
  return async (name, signal = never) => {
    const turn = await turns.take(signal)
    order.push(name)
    return turn
  }
}

test('as many as there is room for go at once, the others in order of arrival', async () => {
  const order: string[] = []
  const visit = visitor(new Turns(2, LONG_MS), order)
  const [a, b] = await Promise.all([visit('a'), visit('b')])
  const [c, d] = [visit('c'), visit('d')]
  await Promise.resolve()
  assert.deepEqual(order, ['a', 'b'])
  b[Symbol.dispose]()
  b[Symbol.dispose]()
  using _c = await c
  assert.deepEqual(order, ['a', 'b', 'c'])
  a[Symbol.dispose]()
  using _d = await d
  assert.deepEqual(order, ['a', 'b', 'c', 'd'])
})

test('nobody waits for a turn that hangs', async () => {
  const turns = new Turns(1, 5)
  const alive = setInterval(() => undefined, 1_000)
  const hanging = await turns.take(never)
  using next = await turns.take(never)
  assert.ok(next)
  // Its end counts no more.
  hanging[Symbol.dispose]()
  clearInterval(alive)
})

test('who gives up leaves the queue, and no turn is lost', async () => {
  const order: string[] = []
  const turns = new Turns(1, LONG_MS)
  const visit = visitor(turns, order)
  const first = await visit('first')
  const abort = new AbortController()
  const given = visit('given up', abort.signal)
  const last = visit('last')
  abort.abort(new Error('enough'))
  await assert.rejects(given, /enough/)
  first[Symbol.dispose]()
  using _last = await last
  assert.deepEqual(order, ['first', 'last'])
  await assert.rejects(turns.take(AbortSignal.abort(new Error('before'))), /before/)
})
