// Going to standby when the last step fails: the guest goes on, or can be tried again.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { aDriver, stateOnly, testContext } from '../../tests/support/instance-context.ts'
import type { Machine, MemorySnapshots } from '../hypervisors/driver.ts'
import type { ImageService } from '../images/types.ts'
import { standbyInstance } from './standby.ts'

test('a VMM that can not be ended goes on with its guest, and the image of it is given up', async () => {
  const done: string[] = []
  const memory = {
    suspend: async () => {
      done.push('suspend')
      return { pausedMs: 1, memoryBytes: 1 }
    },
    discardMemory: async () => void done.push('discard'),
    holdsMemory: async () => false,
  } as Partial<MemorySnapshots> as MemorySnapshots
  const machine: Machine = {
    ...stateOnly('running'),
    pause: async () => void done.push('pause'),
    resume: async () => void done.push('resume'),
    kill: () => Promise.reject(new Error('the process is still there')),
  }
  const images = { byDigest: () => ({ rootfsPath: '/rootfs' }) } as Partial<Record<keyof ImageService, unknown>> as ImageService
  await using world = await testContext({ images, drivers: new Map([['qemu', aDriver('qemu', { memory, partOf: () => undefined })]]) })
  const now = new Date().toISOString()
  const entry = await world.add({ skipGuestAgent: true, programStartedAt: now, agentReadyAt: now, process: machine.process })
  entry.machine = machine
  await assert.rejects(standbyInstance(world.context, entry), /the process is still there/)
  assert.deepEqual(done, ['pause', 'suspend', 'discard', 'resume'])
  assert.deepEqual([entry.holdsMemory, entry.machine, entry.record.process], [false, machine, machine.process])
})
