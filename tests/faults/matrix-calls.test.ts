// The disk fails at each single call of a flow to the file system, once or from there on: each write, sync, rename, link and removal.

import { after, test } from 'node:test'
import { isWhole } from '../support/scale.ts'
import * as instances from './matrix/instance-scenarios.ts'
import { guestScenarios, scenarios } from './matrix/scenarios.ts'
import * as snapshots from './matrix/snapshot-scenarios.ts'
import { isEveryCall, Stage } from './matrix/stage.ts'
import { sweep, type Sweep } from './matrix/sweep.ts'

const stage = new Stage()
after(() => stage[Symbol.asyncDispose]())

type Way = Pick<Sweep, 'what' | 'lasting' | 'every'>

const full: Way = { what: 'enospc', lasting: false, every: 1 }
const staysFull: Way = { what: 'enospc', lasting: true, every: 1 }
const broken: Way = { what: 'eio', lasting: false, every: 1 }
const staysBroken: Way = { what: 'eio', lasting: true, every: 1 }

const representative: readonly (readonly [typeof instances.create, readonly Way[]])[] = [
  [instances.standby, [staysFull, broken]],
  [instances.restore, [broken]],
  [snapshots.snapshotRunning, [staysFull]],
  [
    snapshots.restoreToRunning,
    [
      { ...staysFull, every: 3 },
      { ...broken, every: 2 },
    ],
  ],
]

/** Of the whole, what takes twenty minutes with all else: every fifth call where a guest could be lost, every twelfth elsewhere, in the two ways that tell most. */
const most = scenarios.map((scenario) => {
  const every = guestScenarios.includes(scenario) ? 5 : 12
  return [
    scenario,
    [
      { ...staysFull, every },
      { ...broken, every },
    ],
  ] as const
})
const all = scenarios.map((scenario) => [scenario, [full, staysFull, broken, staysBroken]] as const)

const chosen = isEveryCall ? all : isWhole ? most : representative

for (const [scenario, ways] of chosen)
  for (const way of ways)
    test(`${scenario.name}: ${way.what}${way.lasting ? ' from there on' : ''}`, (t) => sweep(t, stage, { scenario, ...way }))
