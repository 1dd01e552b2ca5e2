// Of S1: what it takes that a fork is a machine of its own. Told by the events of forks and snapshots, in the server's and the guest's own times.

import { eventsOf } from '../tests/support/instance-events.ts'
import type { TestServer } from '../tests/support/server.ts'
import { toldRow, type Bench, type Row } from './measure.ts'
import { sourceOf } from './source.ts'

interface Step {
  readonly flow: string
  readonly step: string
}

/** What one fork took of it, in milliseconds. */
export interface IdentityTimes {
  /** All that the server waits for: each step in the guest, and the way there and back. */
  readonly whole: number
  /** Of that, in the guest: its programs go on. */
  readonly thaw: number
}

export async function identityTimesOf(server: TestServer, fork: string): Promise<IdentityTimes> {
  const [whole, thaw] = [
    await lastOf(server, fork, 1, { flow: 'instance.fork', step: 'identity' }),
    await lastOf(server, fork, 1, { flow: 'guest.fork', step: 'thaw' }),
  ]
  return { whole: whole[0] ?? Number.NaN, thaw: thaw[0] ?? Number.NaN }
}

export function identityRows(size: string, times: readonly IdentityTimes[]): Row[] {
  const row = (what: string, values: readonly number[]): Row => toldRow('S1', `${what}, ${size}`, 'ms', values)
  return [
    row(
      "of that the guest's identity step",
      times.map(({ whole }) => whole),
    ),
    row(
      'of this: programs go on (thaw)',
      times.map(({ thaw }) => thaw),
    ),
  ]
}

/** What comes before: a snapshot has programs stand still. Of one guest, a snapshot a run. */
export async function measureFreezes(bench: Bench): Promise<Row> {
  const { server, runs, say } = bench
  const size = '256MB'
  await using source = await sourceOf(bench, 'freeze', size)
  for (let run = 0; run < runs; run += 1) {
    const { id } = await server.client.instances.snapshots.create(source.instanceId, { kind: 'Standby' })
    await server.client.snapshots.delete(id)
    say(`freeze: run ${run + 1} of ${runs}`)
  }
  const values = await lastOf(server, source.instanceId, runs, { flow: 'snapshot.create', step: 'freeze' })
  return toldRow('S1', `before, in its snapshot: programs stand still (freeze), ${size}`, 'ms', values)
}

/** How long the last so many steps of that name took. */
async function lastOf(server: TestServer, instance: string, count: number, { flow, step }: Step): Promise<number[]> {
  const found = (await eventsOf(server, instance)).filter((event) => event.flow === flow && event.step === step).slice(-count)
  if (found.length < count) throw new Error(`${instance} has ${found.length} events ${flow} ${step}, and ${count} were due`)
  return found.map(({ ms = Number.NaN }) => ms)
}
