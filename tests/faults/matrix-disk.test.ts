// Real disks that are full to the last few blocks, so that the kernel fails each write in turn, of the server and of its VMMs; and one that becomes
// read-only in the middle of a flow.

import assert from 'node:assert/strict'
import { after, test, type TestContext } from 'node:test'
import { run } from '../support/command.ts'
import { diskMissing, mountDisk, type LoopDisk } from '../support/loop-disk.ts'
import { vmmsOf } from '../support/vmm.ts'
import { isWhole } from '../support/scale.ts'
import * as instances from './matrix/instance-scenarios.ts'
import { breakFlow, type Breaker } from './matrix/run.ts'
import type { Scenario } from './matrix/scenario.ts'
import * as snapshots from './matrix/snapshot-scenarios.ts'
import { isWanted, Stage } from './matrix/stage.ts'

const skip = diskMissing('ext4')
after(() => shared?.[Symbol.asyncDispose]())

const DISK_MEGABYTES = 64
const BLOCK_BYTES = 4096
/** More than any of the flows takes. */
const MOST_BLOCKS = 100

/** Leaves so many bytes, which the flow may or may not need. */
function fullBut(disk: LoopDisk, leaveBytes: number): Breaker {
  return {
    begin: () => disk.fill(leaveBytes),
    async end(_world, ending) {
      await disk.freeUp()
      return ending === 'answered' ? undefined : `${leaveBytes} bytes left`
    },
  }
}

const flows = [instances.create, instances.standby, snapshots.snapshotRunning, snapshots.forkToRunning, snapshots.restoreToRunning]

for (const scenario of flows)
  test(`a full disk: ${scenario.name}`, { skip }, (t) => onDisk((disk, stage) => fillUp(t, scenario, disk, stage)))

async function fillUp(t: TestContext, scenario: Scenario, disk: LoopDisk, stage: Stage): Promise<void> {
  let failed = 0
  for (let blocks = 0; blocks < MOST_BLOCKS; blocks += 1) {
    if (!isWanted(`${scenario.name} | ${blocks} blocks left`)) continue
    let came = false
    await t.test(`${blocks} blocks left`, async () => {
      const { struck, verdict } = await breakFlow(
        await stage.world(),
        scenario,
        { at: 'nowhere', what: 'enospc', lasting: true },
        fullBut(disk, blocks * BLOCK_BYTES),
      )
      console.log(`${scenario.name} | ${blocks} blocks left: ${verdict}`)
      came = struck !== undefined
    })
    if (!came) break
    failed += 1
  }
  assert.ok(failed > 0, 'it was full')
}

const middles: readonly (readonly [Scenario, string])[] = [
  [snapshots.snapshotRunning, 'snapshot.create/commit'],
  [instances.standby, 'instance.standby/save'],
  [snapshots.restoreToRunning, 'snapshot.restore/swap'],
  [snapshots.restoreToRunning, 'snapshot.restore/load'],
  [snapshots.restoreToRunning, 'snapshot.restore/confirm'],
]

for (const [scenario, step] of isWhole ? middles : middles.filter((_, at) => at % 2 === 0))
  test(`read-only from ${step} on: ${scenario.name}`, { skip }, () =>
    onDisk(async (disk, stage) => {
      const world = await stage.world()
      await scenario.prepare(world)
      // What a guest has not synced may be lost with the disk.
      assert.equal((await run('sync', ['-f', disk.path])).code, 0)
      world.faults.order({ at: { step, when: 'before' }, what: 'abort', lasting: false, spared: [] })
      await assert.rejects(scenario.act(world), /read-only filesystem|EROFS/)
      assert.equal(world.faults.rescind().filter(({ kind }) => kind === 'struck').length, 1)
      const listed = (await world.client.instances.list()).map(({ name }) => name).toSorted()
      assert.deepEqual(listed, ['bystander', 'sleeper', 'subject'], 'the server still answers')

      await world.server.crash()
      for (const pid of vmmsOf(world.server)) process.kill(pid, 'SIGKILL')
      await disk.mountAgain()
      await world.server.restart()
      assert.ok(['as before', 'done', 'stopped'].includes(await scenario.judge(world)))
      await world.checkDisk()
      assert.deepEqual(await world.wake('bystander'), { memory: '', disk: 'bd' }, 'its VMM was killed')
      await world.checkUse()
      await scenario.prepare(world)
      await scenario.act(world)
      assert.equal(await scenario.judge(world), 'done')
      await scenario.clean(world)
    }),
  )

async function onDisk(act: (disk: LoopDisk, stage: Stage) => Promise<void>): Promise<void> {
  shared ??= await openShared()
  const { disk, stage } = shared
  try {
    await act(disk, stage)
  } catch (error) {
    await disk.freeUp()
    throw await stage.explain(error)
  }
}

interface Shared extends AsyncDisposable {
  readonly disk: LoopDisk
  readonly stage: Stage
}

let shared: Shared | undefined

async function openShared(): Promise<Shared> {
  const disk = await mountDisk('ext4', DISK_MEGABYTES)
  const stage = new Stage('stand-ins', disk.path)
  return {
    disk,
    stage,
    async [Symbol.asyncDispose]() {
      await stage[Symbol.asyncDispose]()
      await disk[Symbol.asyncDispose]()
    },
  }
}
