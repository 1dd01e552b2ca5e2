// Sums of traffic only grow, whatever becomes of the VMMs that counted it.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aRecord, stateOnly } from '../../tests/support/instance-context.ts'
import type { Machine, Traffic } from '../hypervisors/driver.ts'
import { InstanceEntry } from '../instances/index.ts'
import { sumTraffic } from './traffic.ts'

const { signal } = new AbortController()
let pids = 0

/** An instance whose VMM has counted this; `counted` changes what it says. */
function counting(written: number): { readonly entry: InstanceEntry; counted: () => Promise<Traffic> } {
  const vmm = { entry: new InstanceEntry({ ...aRecord(), hypervisor: 'cloud-hypervisor' }, false), counted: () => disks(written) }
  const machine: Machine = {
    ...stateOnly('running'),
    process: { pid: (pids += 1), startTicks: '0', bootId: '' },
    traffic: () => vmm.counted(),
  }
  vmm.entry.machine = machine
  return vmm
}

const disks = (writtenBytes: number): Promise<Traffic> => Promise.resolve({ disks: { readBytes: 0, writtenBytes } })

async function written(sums: ReturnType<ReturnType<typeof sumTraffic>>): Promise<number | undefined> {
  return (await sums).find(({ kind }) => kind === 'disk_written')?.bytes
}

test('what VMMs move between two looks is added, that of one which is new as a whole, and nothing goes when one ends', async () => {
  const look = sumTraffic()
  const [old, later] = [counting(1_000), counting(50)]
  assert.equal(await written(look([old.entry], signal)), 0, 'what was there before the first look')
  old.counted = () => disks(1_007)
  assert.equal(await written(look([old.entry, later.entry], signal)), 57)
  later.counted = () => disks(51)
  assert.equal(await written(look([later.entry], signal)), 58)
  assert.equal(await written(look([], signal)), 58)
})

test('a VMM that does not answer for once loses nothing, and one that counts back takes nothing away', async () => {
  const look = sumTraffic()
  const vmm = counting(10)
  await look([vmm.entry], signal)
  vmm.counted = () => Promise.reject(new Error('no answer'))
  assert.equal(await written(look([vmm.entry], signal)), 0)
  vmm.counted = () => disks(15)
  assert.equal(await written(look([vmm.entry], signal)), 5)
  vmm.counted = () => disks(3)
  assert.equal(await written(look([vmm.entry], signal)), 5)
  vmm.counted = () => disks(4)
  assert.equal(await written(look([vmm.entry], signal)), 6)
})

test('of a VMM that did not answer at the first look, what it had counted by its first answer is not told', async () => {
  const look = sumTraffic()
  const vmm = counting(0)
  vmm.counted = () => Promise.reject(new Error('no answer'))
  await look([vmm.entry], signal)
  vmm.counted = () => disks(1_000)
  assert.equal(await written(look([vmm.entry], signal)), 0)
  vmm.counted = () => disks(1_001)
  assert.equal(await written(look([vmm.entry], signal)), 1)
})

test('a new VMM that does not answer for once is told as a whole later', async () => {
  const look = sumTraffic()
  await look([], signal)
  const vmm = counting(0)
  vmm.counted = () => Promise.reject(new Error('no answer'))
  await look([vmm.entry], signal)
  vmm.counted = () => disks(8)
  assert.equal(await written(look([vmm.entry], signal)), 8)
})

test('kinds that a VMM does not count are not told, nor instances without one that counts', async () => {
  const look = sumTraffic()
  const vmm = counting(1)
  const other = new InstanceEntry(aRecord(), false)
  other.machine = stateOnly('running')
  const sums = await look([vmm.entry, other, new InstanceEntry(aRecord(), false)], signal)
  assert.deepEqual(
    sums.map(({ kind }) => kind),
    ['disk_read', 'disk_written'],
  )
})

test('of many VMMs all are looked at', async () => {
  const look = sumTraffic()
  const all = Array.from({ length: 50 }, () => counting(1))
  const entries = all.map(({ entry }) => entry)
  await look([], signal)
  assert.equal(await written(look(entries, signal)), 50)
})

test('a look that is called off is no look', async () => {
  const look = sumTraffic()
  const vmm = counting(5)
  await look([], signal)
  await assert.rejects(look([vmm.entry], AbortSignal.abort(new Error('the server stops'))), /the server stops/)
})
