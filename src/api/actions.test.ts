// The table of actions and states, cell by cell, written out once more by hand: a change of the table must be meant.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { instanceActions, instanceStates, isLegal, whyIllegal, type InstanceAction } from './actions.ts'

//                    Created Initializing Running Paused Shutdown Stopped Standby Unknown
const wanted: Readonly<Record<InstanceAction, string>> = {
  start: '           no      no           no      no     no       yes     no      no',
  stop: '            yes     yes          yes     yes    yes      no      yes     yes',
  standby: '         no      no           yes     yes    no       no      no      no',
  restore: '         no      no           no      no     no       no      yes     no',
  fork: '            no      no           yes     no     no       yes     yes     no',
  snapshotStandby: ' no      no           yes     no     no       no      yes     no',
  snapshotStopped: ' no      no           no      no     no       yes     no      no',
  restoreSnapshot: ' no      no           no      no     no       yes     yes     no',
  exec: '            no      no           yes     no     no       no      no      no',
  copy: '            no      no           yes     no     no       no      no      no',
  stat: '            no      no           yes     no     no       no      no      no',
  attachVolume: '    no      no           no      no     no       yes     no      no',
  detachVolume: '    no      no           no      no     no       yes     no      no',
  delete: '          yes     yes          yes     yes    yes      yes     yes     yes',
  resize: '          no      no           yes     no     no       yes     no      no',
  update: '          yes     yes          yes     yes    yes      yes     yes     yes',
  logs: '            yes     yes          yes     yes    yes      yes     yes     yes',
}

for (const action of Object.keys(instanceActions) as InstanceAction[]) {
  const cells = wanted[action].trim().split(/\s+/)
  for (const [index, state] of instanceStates.entries()) {
    const legal = cells[index] === 'yes'
    test(`${action} of an instance that is ${state} is ${legal ? 'legal' : 'refused, and the refusal names both'}`, () => {
      assert.equal(isLegal(action, state), legal)
      const reason = whyIllegal(action, state)
      if (legal) assert.equal(reason, undefined)
      else assert.match(reason ?? '', new RegExp(`^only a .* instance can .*, and this one is ${state}$`))
    })
  }
}
