// Many forks of one snapshot, a few at a time, with a table that shows how far each is. One that fails does not keep the others from being made.

import type { ForkSnapshot, Instance } from '../client/client.ts'
import type { Session } from './context.ts'
import { styleState } from './context.ts'
import { showLiveTable } from './output/live-table.ts'
import type { Column } from './output/table.ts'
import { milliseconds } from './output/text.ts'

export interface ForkManyPlan {
  readonly snapshotId: string
  readonly names: readonly string[]
  readonly target: Omit<ForkSnapshot, 'name'>
  /** How many are made at once. */
  readonly parallel: number
}

export interface ForkRow {
  readonly name: string
  state: 'waiting' | 'forking' | 'failed' | Instance['state']
  startedAt: number | undefined
  endedAt: number | undefined
  instance: Instance | undefined
  error: unknown
}

const columns: readonly Column<ForkRow>[] = [
  { title: 'NAME', value: (row) => row.name, cut: true },
  { title: 'STATE', value: (row) => row.state, style: (text, row) => styleState(row.state, text) },
  {
    title: 'TIME',
    value: (row) => (row.startedAt === undefined ? '-' : milliseconds((row.endedAt ?? performance.now()) - row.startedAt)),
    right: true,
  },
  { title: 'INSTANCE ID', value: (row) => row.instance?.id ?? (row.error instanceof Error ? row.error.message : '-'), cut: true },
]

/** Resolves with a row for each name, in order. An interrupt begins no more, and waits for those under way: the server makes them in any case. */
export async function forkMany(session: Session, plan: ForkManyPlan): Promise<readonly ForkRow[]> {
  const rows = plan.names.map((name): ForkRow => ({
    name,
    state: 'waiting',
    startedAt: undefined,
    endedAt: undefined,
    instance: undefined,
    error: undefined,
  }))
  using table = showLiveTable(session.terminal.stderr, columns, rows, session.color)
  const queue = rows.values()
  const work = async (): Promise<void> => {
    for (const row of queue) {
      if (session.signal.aborted) return
      await forkOne(session, plan, row)
    }
  }
  await Promise.all(Array.from({ length: plan.parallel }, work))
  table.finish()
  return rows
}

async function forkOne(session: Session, plan: ForkManyPlan, row: ForkRow): Promise<void> {
  row.startedAt = performance.now()
  row.state = 'forking'
  try {
    row.instance = await session.client.snapshots.fork(plan.snapshotId, { name: row.name, ...plan.target })
    row.state = row.instance.state
  } catch (error) {
    row.error = error // told when all have ended, beside those that went well
    row.state = 'failed'
  }
  row.endedAt = performance.now()
}
