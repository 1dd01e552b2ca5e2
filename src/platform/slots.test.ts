import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Slots } from './slots.ts'

test('there are never more taken than there are, and what is given back, however often, is there once', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5 }), fc.array(fc.nat(9), { maxLength: 60 }), (count, moves) => {
      const slots = new Slots(count)
      const held = new Map<number, Disposable>()
      for (const [at, move] of moves.entries()) {
        const before = held.get(move)
        if (before === undefined) {
          const slot = slots.take()
          assert.equal(slot === undefined, held.size === count, `move ${at}`)
          if (slot !== undefined) held.set(move, slot)
        } else {
          before[Symbol.dispose]()
          before[Symbol.dispose]()
          held.delete(move)
        }
        assert.equal(slots.isFull, held.size === count)
      }
    }),
  )
})
