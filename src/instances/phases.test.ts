// Phases of an instance's life: each follows from what the record says of its run, and their times add up.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { aRecord, testContext } from '../../tests/support/instance-context.ts'
import { afterChange, firstPhase, phaseViewOf, phasesOfOlder, type Phases } from './phases.ts'
import { viewOf } from './view.ts'

const START = Date.parse('2026-11-29T08:00:00.000Z')
const timeAt = (ms: number): string => new Date(START + ms).toISOString()
const process = { pid: 1, startTicks: '0', bootId: '' }

const asked = (phases: Phases, run: { process: unknown; runningSince: string | null }, holdsMemory: boolean, ms: number): Phases =>
  afterChange({ ...run, phases }, holdsMemory, START + ms)

test('a life goes through its phases, and what each has lasted is kept', () => {
  let phases = firstPhase('created', timeAt(0))
  phases = asked(phases, { process: null, runningSince: null }, false, 5)
  assert.equal(phases.current, 'created', 'until there is a VMM')
  phases = asked(phases, { process, runningSince: null }, false, 10)
  phases = asked(phases, { process, runningSince: timeAt(100) }, false, 110)
  const before = phases
  assert.equal(
    asked(phases, { process, runningSince: timeAt(100) }, false, 500),
    before,
    'another change of the record is none of the phase',
  )
  phases = asked(phases, { process: null, runningSince: null }, true, 1_110)
  phases = asked(phases, { process, runningSince: null }, true, 2_110)
  phases = asked(phases, { process, runningSince: timeAt(2_120) }, false, 2_120)
  phases = asked(phases, { process: null, runningSince: null }, false, 3_120)
  assert.deepEqual(phaseViewOf(phases, START + 4_000), {
    current_phase: 'stopped',
    current_phase_since: timeAt(3_120),
    phase_durations_ms: { created: 10, initializing: 110, running: 2_000, standby: 1_000, stopped: 880 },
  })
})

test('times add up to the whole life, whatever happens in it, and a clock that is set back takes nothing away', () => {
  const change = fc.record({ afterMs: fc.nat(10_000), lives: fc.boolean(), runs: fc.boolean(), holdsMemory: fc.boolean() })
  fc.assert(
    fc.property(fc.array(change), (changes) => {
      let [phases, ms] = [firstPhase('stopped', timeAt(0)), 0]
      for (const { afterMs, lives, runs, holdsMemory } of changes) {
        ms += afterMs
        phases = asked(phases, { process: lives ? process : null, runningSince: runs ? timeAt(ms) : null }, holdsMemory, ms)
      }
      const durations = phaseViewOf(phases, START + ms).phase_durations_ms ?? {}
      assert.equal(
        Object.values(durations).reduce((sum, one) => sum + one, 0),
        ms,
      )
      const earlier = phaseViewOf(phases, START - 1_000).phase_durations_ms ?? {}
      assert.ok(Object.values(earlier).every((one) => one >= 0))
    }),
  )
})

test('a record from before phases were kept begins with the one that it is in', () => {
  const of = (change: object): unknown => {
    const { current, since } = phasesOfOlder({ ...aRecord(), createdAt: timeAt(0), ...change })
    return [current, since]
  }
  assert.deepEqual(of({}), ['stopped', timeAt(0)])
  assert.deepEqual(of({ stoppedAt: timeAt(9), savedMemory: [] }), ['standby', timeAt(9)])
  assert.deepEqual(of({ process, startedAt: timeAt(5) }), ['initializing', timeAt(5)])
  assert.deepEqual(of({ process, startedAt: timeAt(5), runningSince: timeAt(7) }), ['running', timeAt(7)])
})

test('the store keeps the phase with every change of the record, durably, and takes it back with an undo', async () => {
  await using world = await testContext()
  const { store } = world.context
  const entry = await world.add({ phases: firstPhase('stopped', timeAt(0)) })
  const before = entry.record
  await store.update(entry, { process, runningSince: null })
  assert.equal(entry.record.phases.current, 'initializing')
  assert.equal((await viewOf(entry)).current_phase, 'initializing')
  await store.update(entry, before)
  assert.deepEqual(entry.record.phases, before.phases)
  entry.holdsMemory = true
  await store.update(entry, {})
  assert.equal(entry.record.phases.current, 'standby')
})
