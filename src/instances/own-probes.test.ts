// Connections of health checks are told from those of others, whatever ports they come from and whenever they are seen.

import assert from 'node:assert/strict'
import { mock, test } from 'node:test'
import fc from 'fast-check'
import { createOwnProbes } from './own-probes.ts'

test('a connection is the check’s own while that is under way, and when it is seen later as one that is over', () => {
  const probes = createOwnProbes()
  const nowMs = Date.now()
  assert.equal(probes.isOwn(5_000, null, nowMs), false)
  {
    using _probe = probes.begin(5_000)
    assert.deepEqual([probes.isOwn(5_000, null, nowMs), probes.isOwn(5_001, null, nowMs)], [true, false])
  }
  assert.equal(probes.isOwn(5_000, 10, nowMs), true)
  assert.equal(probes.isOwn(5_000, null, nowMs), false, 'somebody has the port now')
})

test('a port is forgotten two minutes after the last check from it', () => {
  mock.timers.enable({ apis: ['Date'], now: 0 })
  try {
    fc.assert(
      fc.property(fc.array(fc.record({ port: fc.integer({ min: 1, max: 5 }), waitMs: fc.integer({ min: 0, max: 90_000 }) })), (checks) => {
        const probes = createOwnProbes()
        const last = new Map<number, number>()
        for (const { port, waitMs } of checks) {
          mock.timers.tick(waitMs)
          probes.begin(port)[Symbol.dispose]()
          last.set(port, Date.now())
          for (const one of [1, 2, 3, 4, 5]) {
            const endMs = last.get(one)
            assert.equal(probes.isOwn(one, 0, Date.now()), endMs !== undefined && Date.now() - endMs <= 120_000)
          }
        }
      }),
    )
  } finally {
    mock.timers.reset()
  }
})
