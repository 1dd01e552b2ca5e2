// Many clients at once: every answer must be explained by docs/states.md and the rules of names, volumes and snapshots, and nothing may be left.
// On stand-ins for the number of operations, on real machines for what only those do.

import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { Call } from '../support/model/history.ts'
import { realGuests, standInGuests } from '../support/model/guests.ts'
import { runModel, seedOfRun, type ModelRun } from '../support/model/run.ts'
import { scaled } from '../support/scale.ts'
import { startServer, type TestServer } from '../support/server.ts'
import { startStandInServer } from '../support/stand-in-hypervisor/server.ts'
import { countVm } from '../support/vm-count.ts'

const standIns = {
  clients: 16,
  operations: scaled({ part: 60, whole: 500 }),
  guests: standInGuests,
  limits: { instances: 12, snapshots: 16, names: 18, volumes: ['vol-a', 'vol-b', 'vol-c'], diskAlone: true },
}

const machines = {
  clients: 4,
  operations: scaled({ part: 12, whole: 40 }),
  guests: realGuests,
  limits: { instances: 2, snapshots: 3, names: 4, volumes: [], diskAlone: false },
}

test(`${standIns.clients} clients with ${standIns.operations} operations each on stand-ins`, async (context) => {
  await using server = await startStandInServer()
  await explain(context, server, { ...standIns, seed: seedOfRun() })
})

test(`${machines.clients} clients with ${machines.operations} operations each on real machines`, async (context) => {
  await using server = await startServer()
  const history = await explain(context, server, { ...machines, seed: seedOfRun() })
  for (const { operation, answer } of history)
    if (answer.outcome === 'done' && (operation.kind === 'restore' || answer.said.content !== undefined)) countVm(operation.kind)
})

async function explain(context: TestContext, server: TestServer, run: ModelRun): Promise<readonly Call[]> {
  context.diagnostic(`HYPEMAN_MODEL_SEED=${run.seed} asks the same again`)
  const { faults, history, ms } = await runModel(server, run)
  const done = history.filter(({ answer }) => answer.outcome === 'done').length
  context.diagnostic(`${history.length} calls in ${Math.round(ms)} ms, ${done} of them done, the others refused or lost`)
  assert.equal(faults.length, 0, `seed ${run.seed}\n${faults.join('\n\n')}\n${await server.log()}`)
  return history
}
