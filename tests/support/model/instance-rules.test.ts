import assert from 'node:assert/strict'
import { test } from 'node:test'
import { instanceActions, type InstanceAction, type InstanceState as WireState } from '../../../src/api/actions.ts'
import { instanceRules, type InstanceEvent, type InstanceHappening, type InstanceState, type Phase } from './instance-rules.ts'

function follows(state: InstanceState, happening: InstanceHappening): readonly InstanceState[] {
  return instanceRules.step(state, { sent: 0, answered: 1, ...happening } as InstanceEvent)
}

const at = (phase: Phase): InstanceState => ({ phase, memory: 'm', disk: 'd' })
const content = { memory: '?', disk: '?' }

const happenings: readonly (readonly [InstanceAction, (ok: boolean) => InstanceHappening])[] = [
  ['start', (ok) => ({ what: 'start', ok })],
  ['stop', (ok) => ({ what: 'stop', ok })],
  ['standby', (ok) => ({ what: 'standby', ok })],
  ['restore', (ok) => ({ what: 'restore', ok })],
  ['snapshotStandby', (ok) => ({ what: 'snapshot', of: 'Standby', ok, content })],
  ['snapshotStopped', (ok) => ({ what: 'snapshot', of: 'Stopped', ok, content })],
  ['restoreSnapshot', (ok) => ({ what: 'restoreSnapshot', ok, became: 'Stopped', content })],
]

test('what the model permits in which state is what the table of actions says', () => {
  for (const [action, happening] of happenings)
    for (const phase of ['Running', 'Stopped', 'Standby'] as const) {
      const states: readonly WireState[] = instanceActions[action].states
      assert.equal(follows(at(phase), happening(true)).length > 0, states.includes(phase), `${action} in ${phase}`)
      assert.equal(follows(at(phase), happening(false)).length > 0, !states.includes(phase), `${action} refused in ${phase}`)
    }
})

test('a booting instance may be taken for Running, but not the other way round', () => {
  assert.deepEqual(follows(at('Booting'), { what: 'standby', ok: true }), [at('Standby')])
  assert.deepEqual(follows(at('Booting'), { what: 'standby', ok: false }), [at('Booting')])
  const seen = { what: 'seen', state: 'Initializing', moments: new Set<string>() } as const
  assert.deepEqual(follows(at('Booting'), seen), [at('Booting')])
  assert.deepEqual(follows(at('Running'), seen), [])
  assert.deepEqual(follows(at('Running'), { ...seen, moments: new Set(['Initializing']) }), [at('Running')])
})

test('memory ends with a stop and is kept in standby; the disk is always kept', () => {
  assert.deepEqual(follows(at('Running'), { what: 'stop', ok: true }), [{ phase: 'Stopped', memory: '', disk: 'd' }])
  assert.deepEqual(follows(at('Running'), { what: 'standby', ok: true }), [at('Standby')])
})

test('a read shows what was written last, and a write what was there before', () => {
  assert.deepEqual(follows(at('Running'), { what: 'read', content: { memory: 'm', disk: 'd' } }), [at('Running')])
  assert.deepEqual(follows(at('Running'), { what: 'read', content: { memory: 'old', disk: 'd' } }), [])
  const write = { what: 'write', to: 'disk', text: 'new' } as const
  assert.deepEqual(follows(at('Running'), { ...write, before: 'd' }), [{ ...at('Running'), disk: 'new' }])
  assert.deepEqual(follows(at('Running'), { ...write, before: 'old' }), [])
  assert.deepEqual(follows(at('Stopped'), { ...write, before: 'd' }), [])
})

test('a fork has what its source had, and becomes what the source was unless it was asked for something else', () => {
  const fork = { what: 'fork', ok: true, fromRunning: true, became: 'Running', asked: undefined } as const
  const copy = { memory: 'm', disk: 'd' }
  assert.deepEqual(follows(at('Running'), { ...fork, content: copy }), [at('Running')])
  assert.deepEqual(follows(at('Running'), { ...fork, content: { ...copy, memory: 'other' } }), [])
  assert.deepEqual(follows(at('Running'), { ...fork, fromRunning: false, content: copy }), [])
  assert.deepEqual(follows(at('Standby'), { ...fork, content: copy }), [])
  assert.deepEqual(follows(at('Standby'), { ...fork, asked: 'Running', content: copy }), [at('Standby')])
})

test('contents that nobody has seen are learned once', () => {
  const unseen: InstanceState = { phase: 'Running', memory: '?fork', disk: 'd' }
  const read = (memory: string): InstanceHappening => ({ what: 'read', content: { memory, disk: 'd' } })
  assert.deepEqual(follows(unseen, read('m')), [at('Running')])
  assert.deepEqual(follows(at('Running'), read('other')), [])
})

test('what is gone answers that it is missing, and nothing else', () => {
  const gone = at('gone')
  assert.deepEqual(follows(gone, { what: 'missing' }), [gone])
  for (const [, happening] of happenings) for (const ok of [true, false]) assert.deepEqual(follows(gone, happening(ok)), [])
  assert.deepEqual(follows(at('Stopped'), { what: 'missing' }), [])
})
