import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deriveState, type Observation } from './state.ts'

const ready: Observation = {
  vmm: 'running',
  holdsMemory: false,
  programStarted: true,
  agentReady: true,
  skipGuestAgent: false,
  identityDue: false,
  standsStill: false,
}

const cases: readonly [string, Partial<Observation>, string][] = [
  ['a running VMM whose program was started and whose agent answered', {}, 'Running'],
  ['a running VMM whose agent has not answered', { agentReady: false }, 'Initializing'],
  ['a running VMM whose program was not started', { programStarted: false, agentReady: false }, 'Initializing'],
  ['a running VMM without agent gate', { agentReady: false, skipGuestAgent: true }, 'Running'],
  [
    'a running VMM without agent gate whose program was not started',
    { programStarted: false, agentReady: false, skipGuestAgent: true },
    'Initializing',
  ],
  ['a fork that has not taken its identity', { identityDue: true }, 'Initializing'],
  ['a paused VMM', { vmm: 'paused' }, 'Paused'],
  ['a VMM that has not begun to boot', { vmm: 'created' }, 'Created'],
  ['a guest that is off in a live VMM', { vmm: 'shutdown' }, 'Shutdown'],
  ['no VMM and no memory', { vmm: 'gone' }, 'Stopped'],
  ['no VMM, but memory on disk', { vmm: 'gone', holdsMemory: true }, 'Standby'],
  ['a running VMM beside a memory image that is not consumed yet', { holdsMemory: true }, 'Running'],
]

for (const [what, seen, state] of cases)
  test(`${what} is ${state}`, () => {
    assert.equal(deriveState({ ...ready, ...seen }).state, state)
  })

test('a VMM that does not answer is Unknown, with the reason', () => {
  const derived = deriveState({ ...ready, vmm: 'unanswered' })
  assert.equal(derived.state, 'Unknown')
  assert.match(derived.error ?? '', /does not answer/)
})
