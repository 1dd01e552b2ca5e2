// The flows that could lose a guest, on real QEMU: the disk fails at calls of the driver and of the flows, and the VMM ends at steps. That they are
// killed at steps is in crashes.test.ts; every step and call, with stand-in machines, in the matrix.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { scaled } from '../support/scale.ts'
import * as instances from './matrix/instance-scenarios.ts'
import { breakFlow } from './matrix/run.ts'
import type { Scenario } from './matrix/scenario.ts'
import * as snapshots from './matrix/snapshot-scenarios.ts'
import { isWanted, Stage } from './matrix/stage.ts'
import { sweep } from './matrix/sweep.ts'

const stage = new Stage('qemu')
after(() => stage[Symbol.asyncDispose]())

for (const [scenario, what, lasting, every] of [
  [snapshots.snapshotRunning, 'enospc', true, scaled({ part: 13, whole: 9 })],
  [instances.standby, 'eio', false, scaled({ part: 11, whole: 7 })],
  [snapshots.restoreToRunning, 'eio', false, scaled({ part: 30, whole: 35 })],
] as const)
  test(`${scenario.name}: ${what}`, (t) => sweep(t, stage, { scenario, what, lasting, every }))

const endings: readonly (readonly [Scenario, string])[] = [
  [snapshots.snapshotRunning, 'snapshot.create/capture'],
  [instances.standby, 'instance.standby/save'],
  [snapshots.restoreToRunning, 'snapshot.restore/resume'],
  [snapshots.restoreToRunning, 'snapshot.restore/confirm'],
]

for (const [scenario, step] of scaled({ part: endings.slice(1, 3), whole: endings }))
  test(
    `${scenario.name}: the VMM ends before ${step}`,
    { skip: isWanted(`${scenario.name} | ${step} | vmm before`) ? false : 'not asked for' },
    async () => {
      try {
        const { struck } = await breakFlow(await stage.world(), scenario, { at: { step, when: 'before' }, what: 'vmm', lasting: false })
        assert.ok(struck !== undefined, 'there was a VMM to end')
      } catch (error) {
        throw await stage.explain(error)
      }
    },
  )
