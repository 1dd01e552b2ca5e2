import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tableOf } from './hypervisor-table.ts'

test('the table has a line for each scenario and says what failed, what was refused, what was not tried, and what is a stand-in', () => {
  const table = tableOf(
    [{ name: 'boot' }, { name: 'standby' }, { name: 'network' }, { name: 'moves' }],
    [
      { hypervisor: 'qemu', scenario: 'boot', standIn: false, outcome: 'done' },
      { hypervisor: 'vz', scenario: 'boot', standIn: true, outcome: 'done' },
      { hypervisor: 'vz', scenario: 'standby', standIn: true, outcome: 'failed' },
      { hypervisor: 'qemu', scenario: 'network', standIn: false, outcome: 'done' },
      { hypervisor: 'vz', scenario: 'network', standIn: true, outcome: 'refused' },
      { hypervisor: 'vz', scenario: 'moves', standIn: true, outcome: 'not here' },
    ],
  )
  assert.deepEqual(table.split('\n').slice(0, 5), [
    '         qemu     vz*',
    'boot     yes      yes',
    'standby  -        NO',
    'network  yes      refused',
    'moves    -        -',
  ])
  assert.match(table, /\* a stand-in/)
})
