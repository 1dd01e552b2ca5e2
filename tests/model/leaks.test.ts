// Many forks made and deleted: the server ends up holding what it held before, in descriptors, threads, machines, files and memory.

import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { footprintOf, grownSince, residentBytes } from '../support/footprint.ts'
import { runMachine, small } from '../support/machine.ts'
import { scaled } from '../support/scale.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { standIn, startStandInServer } from '../support/stand-in-hypervisor/server.ts'
import { countVm } from '../support/vm-count.ts'

const standIns = { cycles: scaled({ part: 100, whole: 1_000 }), warmUp: scaled({ part: 60, whole: 300 }), atOnce: 4 }
const machines = { cycles: scaled({ part: 8, whole: 100 }), warmUp: scaled({ part: 6, whole: 20 }), atOnce: 2 }

/** What the lowest points of a heap that is collected now and then may differ by, in bytes. */
const MEMORY_SLACK_BYTES = 16 * 1024 ** 2

test(`${standIns.cycles} forks of a stand-in leave nothing`, async (context) => {
  await using server = await startStandInServer()
  const { id } = await server.client.instances.create({ ...standIn, name: 'origin' })
  await server.client.instances.wait(id, { state: 'Running', timeout: '30s' })
  await assertFlat(context, server, id, standIns)
})

test(`${machines.cycles} forks of a real machine leave nothing`, async (context) => {
  await using server = await startServer()
  const id = await runMachine(server, { ...small, name: 'origin' })
  await assertFlat(context, server, id, machines)
  for (let count = 0; count < machines.warmUp + machines.cycles; count += 1) countVm('fork')
})

interface Cycles {
  readonly cycles: number
  /** Before anything is measured: code gets compiled and buffers their size. */
  readonly warmUp: number
  readonly atOnce: number
}

async function assertFlat(context: TestContext, server: TestServer, origin: string, { cycles, warmUp, atOnce }: Cycles): Promise<void> {
  const { id: snapshot } = await server.client.instances.snapshots.create(origin, { kind: 'Standby' })
  await forkAndDelete(server, snapshot, warmUp, atOnce)
  const before = footprintOf(server)
  const memory = await forkAndDelete(server, snapshot, cycles, atOnce)
  assert.deepEqual(await grownSince(server, before), [])
  const quarter = Math.ceil(memory.length / 4)
  const [early, late] = [Math.min(...memory.slice(0, quarter)), Math.min(...memory.slice(-quarter))]
  context.diagnostic(`${mib(early)} MiB of memory in the first quarter of ${cycles} forks, ${mib(late)} MiB in the last`)
  assert.ok(late - early < MEMORY_SLACK_BYTES, `the server's memory grows: ${memory.map(mib).join(' ')} MiB`)
}

function mib(bytes: number): number {
  return Math.round(bytes / 1024 ** 2)
}

/** Each fork has answered when it is deleted. Returns the server's resident memory after each, in bytes. */
async function forkAndDelete(server: TestServer, snapshot: string, cycles: number, atOnce: number): Promise<readonly number[]> {
  const memory: number[] = []
  let left = cycles
  const one = async (name: string): Promise<void> => {
    while (left > 0) {
      left -= 1
      const { id, state } = await server.client.snapshots.fork(snapshot, { name })
      assert.equal(state, 'Running')
      await server.client.instances.delete(id)
      memory.push(residentBytes(server))
    }
  }
  await Promise.all(Array.from({ length: atOnce }, (_, at) => one(`fork-${at}`)))
  return memory
}
