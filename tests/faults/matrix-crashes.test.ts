// The server is killed before each single call of a flow to the file system, in the middle of each write, and while it starts again.

import { after, test } from 'node:test'
import { isWhole } from '../support/scale.ts'
import { scenarios } from './matrix/scenarios.ts'
import * as snapshots from './matrix/snapshot-scenarios.ts'
import * as instances from './matrix/instance-scenarios.ts'
import { Stage } from './matrix/stage.ts'
import { sweep } from './matrix/sweep.ts'

const stage = new Stage()
after(() => stage[Symbol.asyncDispose]())

const representative = [
  { scenario: instances.create, every: 9 },
  { scenario: instances.standby, every: 4 },
  { scenario: snapshots.snapshotRunning, every: 6 },
  { scenario: snapshots.restoreToRunning, every: 9 },
] as const

for (const { scenario, every } of isWhole ? scenarios.map((one) => ({ scenario: one, every: 1 })) : representative)
  test(scenario.name, (t) => sweep(t, stage, { scenario, what: 'kill', lasting: false, every }))
