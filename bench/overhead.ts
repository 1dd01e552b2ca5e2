// H1: what the server adds to a fork and a restore on each hypervisor. Of the time from a request to its answer, as the server measures it, what the VMM takes to load memory and to run again, and what
// the guest takes for its identity, is not the server's, nor is what the VMM takes to tell its state for the answer; all the rest is.

import { eventsOf } from '../tests/support/instance-events.ts'
import { hypervisorsUnderTest, startHypervisor, titleOf, type HypervisorUnderTest } from '../tests/support/hypervisors.ts'
import type { TestServer } from '../tests/support/server.ts'
import { limitRow, timed, type Bench, type Row } from './measure.ts'
import { settle } from './source.ts'

const LIMIT_MS = 15
/** Steps that wait for the VMM or the guest (src/instances/start.ts, readiness.ts). */
const notOurs = new Set(['load', 'resume', 'agent', 'identity'])
const flows = { fork: 'instance.fork', restore: 'instance.restore' } as const
const operations = { fork: 'forkSnapshot', restore: 'restoreInstance' } as const

export async function measureOverhead(bench: Bench): Promise<Row[]> {
  const rows: Row[] = []
  for (const hypervisor of hypervisorsUnderTest('all'))
    if (hypervisor.skip === undefined) rows.push(...(await measureOn(bench, hypervisor)))
    else bench.leaveOut('H1', `${hypervisor.name}: ${hypervisor.skip}`)
  return rows
}

async function measureOn({ runs, say }: Bench, hypervisor: HypervisorUnderTest): Promise<Row[]> {
  const { name, standIn } = hypervisor
  await using started = await startHypervisor(hypervisor)
  const { server, body } = started
  const { instances, snapshots } = server.client
  say(`boot on ${name}`)
  const { id } = await instances.create({
    ...{ name: 'source', image: 'hypeman/base', size: '256MB', vcpus: 1, hypervisor: name as 'qemu' },
    ...body,
  })
  const { state } = await instances.wait(id, { state: 'Running', timeout: '2m' })
  if (state !== 'Running') throw new Error(`the source on ${name} is ${state}`)
  await settle(server, id)
  const snapshot = await instances.snapshots.create(id, { kind: 'Standby' })
  const stopped = await snapshots.fork(snapshot.id, { name: 'stopped', target_state: 'Stopped' })
  const [forks, restores]: [number[], number[]] = [[], []]
  /** What is answered last asks the VMM for its state: what that takes is told by an instance that has none. */
  const telling = async (running: string): Promise<number> =>
    Math.max(0, (await timed(() => instances.get(running))) - (await timed(() => instances.get(stopped.id))))
  for (let run = 0; run < runs; run += 1) {
    // A guest that has just been restored does what it has not done yet, which is not to be counted as the server's.
    await settle(server, id)
    const unforked = await answeredMs(server, 'fork')
    const fork = (await snapshots.fork(snapshot.id, { name: `fork-${run}` })).id
    const wall = (await answeredMs(server, 'fork')) - unforked
    forks.push(wall - (await telling(fork)) - (await otherMs(server, fork, 'fork')))
    await instances.delete(fork)
    await instances.standby(id)
    const before = await otherMs(server, id, 'restore')
    const unrestored = await answeredMs(server, 'restore')
    await instances.restore(id)
    const back = (await answeredMs(server, 'restore')) - unrestored
    restores.push(back - (await telling(id)) - (await otherMs(server, id, 'restore')) + before)
    say(`overhead on ${name}: run ${run + 1} of ${runs}`)
  }
  for (const each of [id, stopped.id]) await instances.delete(each)
  await snapshots.delete(snapshot.id)
  const where = `${titleOf(hypervisor)}${standIn ? ' (stand-in)' : ''}`
  return [
    limitRow('H1', `fork on ${where}: beside VMM and guest`, 'ms', LIMIT_MS, forks),
    limitRow('H1', `restore on ${where}: beside VMM and guest`, 'ms', LIMIT_MS, restores),
  ]
}

/** What all answers of an operation took so far, by the server's own histogram, in milliseconds. */
async function answeredMs(server: TestServer, flow: keyof typeof operations): Promise<number> {
  const answer = await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${server.token}` } })
  const name = `hypeman_http_request_duration_seconds_sum{operation="${operations[flow]}",status_class="2xx"} `
  const line = (await answer.text()).split('\n').find((one) => one.startsWith(name))
  return line === undefined ? 0 : Number(line.slice(name.length)) * 1_000
}

/** What the VMM and the guest took in all such flows of the instance so far, in milliseconds. */
async function otherMs(server: TestServer, id: string, flow: keyof typeof flows): Promise<number> {
  const events = await eventsOf(server, id)
  return events.reduce((sum, { flow: of, step = '', ms = 0 }) => sum + (of === flows[flow] && notOurs.has(step) ? ms : 0), 0)
}
