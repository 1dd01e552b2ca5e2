import assert from 'node:assert/strict'
import { test } from 'node:test'
import { tableOf } from './hypervisor-table.ts'

test('the table has a line for each scenario and says what failed, what was not tried, and what is a stand-in', () => {
  const table = tableOf(
    [{ name: 'boot' }, { name: 'standby' }],
    [
      { hypervisor: 'qemu', scenario: 'boot', standIn: false, passed: true },
      { hypervisor: 'vz', scenario: 'boot', standIn: true, passed: true },
      { hypervisor: 'vz', scenario: 'standby', standIn: true, passed: false },
    ],
  )
  assert.deepEqual(table.split('\n').slice(0, 3), ['         qemu   vz*', 'boot     yes    yes', 'standby  -      NO'])
  assert.match(table, /\* a stand-in/)
})
