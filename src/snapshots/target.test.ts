// What a snapshot can become: every kind, target state and hypervisor.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aRecord } from '../../tests/support/instance-context.ts'
import { targetStates, type TargetState } from '../api/actions.ts'
import { isHypemanError } from '../api/errors.ts'
import { hypervisorNames } from '../api/schemas/common.ts'
import { targetOf } from './target.ts'

const kinds = ['Standby', 'Stopped'] as const
const snapshot = (kind: (typeof kinds)[number]) => ({ id: 's', kind, instance: { ...aRecord(), hypervisor: 'qemu' as const } })

const defaults = { Standby: 'Running', Stopped: 'Stopped' } as const
const allowed: Readonly<Record<(typeof kinds)[number], readonly TargetState[]>> = {
  Standby: ['Running', 'Standby', 'Stopped'],
  Stopped: ['Stopped', 'Running'],
}

for (const kind of kinds) {
  test(`a ${kind} snapshot becomes ${defaults[kind]} on its own hypervisor unless something else is asked for`, () => {
    assert.deepEqual(targetOf(snapshot(kind), {}), { state: defaults[kind], hypervisor: 'qemu' })
  })
  for (const targetState of targetStates) {
    const legal = allowed[kind].includes(targetState)
    test(`a ${kind} snapshot ${legal ? 'can' : 'can not'} become ${targetState}`, () => {
      if (legal) return assert.equal(targetOf(snapshot(kind), { targetState }).state, targetState)
      assert.throws(
        () => targetOf(snapshot(kind), { targetState }),
        (error) =>
          isHypemanError(error, 'invalid_request') && error.message.startsWith('target_state: ') && error.message.includes(targetState),
      )
    })
  }
  for (const targetHypervisor of hypervisorNames)
    for (const targetState of allowed[kind])
      test(`a ${kind} snapshot ${kind === 'Stopped' ? 'can' : 'can not'} become ${targetState} on ${targetHypervisor}`, () => {
        const request = { targetState, targetHypervisor }
        if (kind === 'Stopped')
          return assert.deepEqual(targetOf(snapshot(kind), request), { state: targetState, hypervisor: targetHypervisor })
        assert.throws(
          () => targetOf(snapshot(kind), request),
          (error) => isHypemanError(error, 'invalid_request') && /^target_hypervisor: .* qemu only/.test(error.message),
        )
      })
}
