// Every measurement, in the order in which they run, and what can't be measured yet.

import { measureCopies } from './copies.ts'
import { measureExec } from './exec.ts'
import { measureFirstSnapshots } from './first-snapshot.ts'
import { measureIdle } from './idle.ts'
import { measureIndex } from './index-scale.ts'
import { measureLaterSnapshots } from './later-snapshots.ts'
import { measureLoad } from './load.ts'
import { measureManyForks } from './many-forks.ts'
import { measureMemory } from './memory.ts'
import type { Measurement } from './measure.ts'
import type { Absent } from './picks.ts'
import { measureOverhead } from './overhead.ts'
import { measureTemplates } from './templates.ts'
import { measureCreates, measureForks, measureRestores } from './wakes.ts'

export const measurements: readonly Measurement[] = [
  { ids: ['S1'], run: measureForks },
  { ids: ['S2', 'create'], run: measureCreates },
  { ids: ['S6'], run: measureRestores },
  { ids: ['S3', 'S5', 'snapshot'], run: measureLaterSnapshots },
  { ids: ['memory'], run: measureMemory },
  { ids: ['S4'], run: measureFirstSnapshots },
  { ids: ['S4b'], run: measureTemplates },
  { ids: ['S7'], run: measureManyForks },
  { ids: ['S8'], run: measureCopies },
  { ids: ['S9'], run: measureIndex },
  { ids: ['S10'], run: measureIdle },
  { ids: ['S12'], run: measureExec },
  { ids: ['H1'], run: measureOverhead },
  { ids: ['L1', 'L2', 'L3', 'L4'], run: measureLoad },
]

export const absent: Absent = {
  S11: 'push of a second snapshot to a registry: snapshots are not pushed to registries yet',
}
