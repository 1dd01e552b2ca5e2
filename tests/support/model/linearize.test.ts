import assert from 'node:assert/strict'
import { test } from 'node:test'
import { linearize, type Rules } from './linearize.ts'

type Event = { readonly sent: number; readonly answered: number; readonly optional?: boolean } & (
  | { readonly write: string }
  | { readonly read: string }
)

const register: Rules<string, Event> = {
  initial: '',
  step: (state, event) => ('write' in event ? [event.write] : event.read === state ? [state] : []),
  isLook: (event) => 'read' in event,
}

test('calls one after another are explained in their order alone', () => {
  const write = { sent: 0, answered: 1, write: 'a' }
  assert.ok(linearize(register, [write, { sent: 2, answered: 3, read: 'a' }]).explained)
  assert.ok(!linearize(register, [write, { sent: 2, answered: 3, read: '' }]).explained)
})

test('calls at the same time may have happened in any order', () => {
  const write = { sent: 0, answered: 4, write: 'a' }
  for (const read of ['', 'a']) assert.ok(linearize(register, [write, { sent: 1, answered: 3, read }]).explained, read)
  assert.ok(!linearize(register, [write, { sent: 1, answered: 3, read: 'b' }]).explained)
})

test('what was once seen is not unseen again', () => {
  const write = { sent: 0, answered: 9, write: 'a' }
  const reads = (one: string, other: string): Event[] => [write, { sent: 1, answered: 2, read: one }, { sent: 3, answered: 4, read: other }]
  assert.ok(linearize(register, reads('', 'a')).explained)
  assert.ok(!linearize(register, reads('a', '')).explained)
})

test('an order that works is found behind ones that do not', () => {
  const events: Event[] = [
    { sent: 0, answered: 20, write: 'a' },
    { sent: 1, answered: 21, write: 'b' },
    { sent: 2, answered: 22, write: 'c' },
    { sent: 3, answered: 10, read: 'c' },
    { sent: 11, answered: 12, read: 'a' },
    { sent: 23, answered: 24, read: 'b' },
  ]
  assert.ok(linearize(register, events).explained)
  assert.ok(!linearize(register, [...events, { sent: 25, answered: 26, read: 'a' }]).explained)
})

test('a write of what is there already may be needed later', () => {
  const events: Event[] = [
    { sent: 0, answered: 1, write: 'a' },
    { sent: 2, answered: 9, write: 'a' },
    { sent: 3, answered: 4, write: 'b' },
    { sent: 5, answered: 6, read: 'b' },
    { sent: 10, answered: 11, read: 'a' },
  ]
  assert.ok(linearize(register, events).explained)
})

test('a call whose end nobody saw may have happened, may happen later, or never', () => {
  const lost: Event = { sent: 0, answered: 1, write: 'a', optional: true }
  for (const read of ['', 'a']) assert.ok(linearize(register, [lost, { sent: 2, answered: 3, read }]).explained, read)
  assert.ok(!linearize(register, [lost, { sent: 2, answered: 3, read: 'a' }, { sent: 4, answered: 5, read: '' }]).explained)
})

test('what can not be explained is told with the state before it and what should have followed', () => {
  const read: Event = { sent: 2, answered: 3, read: 'b' }
  assert.deepEqual(linearize(register, [{ sent: 0, answered: 1, write: 'a' }, read]), { explained: false, state: 'a', next: [read] })
})

test('long histories of many clients take a moment only', () => {
  const events: Event[] = []
  for (let round = 0; round < 200; round += 1)
    for (let client = 0; client < 8; client += 1) {
      const sent = round * 100 + client
      events.push(client === 0 ? { sent, answered: sent + 50, write: `${round}` } : { sent, answered: sent + 50, read: `${round}` })
    }
  const began = performance.now()
  assert.ok(linearize(register, events).explained)
  assert.ok(!linearize(register, [...events, { sent: 20_000, answered: 20_001, read: 'never written' }]).explained)
  assert.ok(performance.now() - began < 10_000)
})
