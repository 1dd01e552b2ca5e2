// The server is killed before each single call of a flow to the file system, in the middle of each write, and while it starts again.

import { after, test } from 'node:test'
import { isWhole } from '../support/scale.ts'
import { scenarios } from './matrix/scenarios.ts'
import * as snapshots from './matrix/snapshot-scenarios.ts'
import * as instances from './matrix/instance-scenarios.ts'
import type { Scenario } from './matrix/scenario.ts'
import { isEveryCall, Stage } from './matrix/stage.ts'
import { sweep } from './matrix/sweep.ts'

const stage = new Stage()
after(() => stage[Symbol.asyncDispose]())

const representative = [
  { scenario: instances.create, every: 9 },
  { scenario: instances.standby, every: 4 },
  { scenario: snapshots.snapshotRunning, every: 6 },
  { scenario: snapshots.restoreToRunning, every: 9 },
] as const

const at = (every: number): readonly { readonly scenario: Scenario; readonly every: number }[] =>
  scenarios.map((scenario) => ({ scenario, every }))

for (const { scenario, every } of isEveryCall ? at(1) : isWhole ? at(12) : representative)
  test(scenario.name, (t) => sweep(t, stage, { scenario, what: 'kill', lasting: false, every }))
