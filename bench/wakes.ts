// S1, S2, S6 and create: how long it takes until a guest's agent has answered, by fork, by create and from standby.

import { bootByHand, forkByHand } from './floor.ts'
import { identityRows, identityTimesOf, measureFreezes, type IdentityTimes } from './identity.ts'
import { startLoadingAhead, untilLoadedAhead } from './loaded-ahead.ts'
import { against, judged, median, ratioRow, timed, toldRow, type Bench, type Row } from './measure.ts'
import { create, OVERLAY_BYTES, readyMsOf, sourceOf, type Source } from './source.ts'

interface Sized {
  readonly size: string
  readonly source: Source
  readonly ours: number[]
  readonly floors: number[]
}

/** S1: forks of a small and a large guest against QEMU by hand, and the two against each other; what of that is the guest's identity, as events tell it. */
export async function measureForks(bench: Bench): Promise<Row[]> {
  const { client } = bench.server
  const times: IdentityTimes[] = []
  const rows = await bySize(bench, 'fork', 'S1', 'fork to agent ready', async ({ snapshotId, spec }, run) => {
    const ms = await timed(async () => client.snapshots.fork(snapshotId, { name: `f-${run}` }))
    if (spec.memoryMib === 256) times.push(await identityTimesOf(bench.server, `f-${run}`))
    await client.instances.delete(`f-${run}`)
    return ms
  })
  return [...rows, ...identityRows('256MB', times), await measureFreezes(bench), await measureLoadedAhead(bench)]
}

/** A fork of a snapshot that was forked before, when the server has had the time to load the next one. */
async function measureLoadedAhead({ runs, say }: Bench): Promise<Row> {
  await using server = await startLoadingAhead()
  await using source = await sourceOf({ server, say }, 'ahead', '256MB')
  const [ours, floors]: [number[], number[]] = [[], []]
  await server.client.snapshots.fork(source.snapshotId, { name: 'ahead-first' })
  for (let run = 0; run < runs; run += 1) {
    await untilLoadedAhead(server, 1)
    floors.push(await readyMsOf(forkByHand(source.layout, source.spec, source.payload)))
    ours.push(await timed(async () => server.client.snapshots.fork(source.snapshotId, { name: `ahead-${run}` })))
    await server.client.instances.delete(`ahead-${run}`)
  }
  await server.client.instances.delete('ahead-first')
  return against(toldRow('S1', 'fork that was loaded ahead, 256MB', 'ms', ours), floors)
}

/** S6: standby to running, against the same floor as a fork. */
export async function measureRestores(bench: Bench): Promise<Row[]> {
  const { instances } = bench.server.client
  return bySize(bench, 'restore', 'S6', 'standby to agent ready', async ({ instanceId }) => {
    await instances.standby(instanceId)
    return timed(() => instances.restore(instanceId))
  })
}

/** All four by turns, so that what else the machine does hits them alike. */
async function bySize(
  bench: Bench,
  name: string,
  id: string,
  what: string,
  wake: (source: Source, run: number) => Promise<number>,
): Promise<Row[]> {
  await using small = await sourceOf(bench, `${name}-small`, '256MB')
  await using large = await sourceOf(bench, `${name}-large`, '2GB')
  const sizes: readonly [Sized, Sized] = [
    { size: '256MB', source: small, ours: [], floors: [] },
    { size: '2GB', source: large, ours: [], floors: [] },
  ]
  for (let run = 0; run < bench.runs; run += 1) {
    for (const { source, ours, floors } of sizes) {
      floors.push(await readyMsOf(forkByHand(source.layout, source.spec, source.payload)))
      ours.push(await wake(source, run))
    }
    bench.say(`${name}: run ${run + 1} of ${bench.runs}`)
  }
  const ratio = median(sizes[1].ours) / median(sizes[0].ours)
  return [
    ...sizes.map(({ size, ours, floors }) => ratioRow(id, `${what}, ${size}`, 1.3, ours, floors)),
    { ...judged(toldRow(id, `${what}, 2GB against 256MB`, '×', [ratio]), '± 20 %', Math.abs(ratio - 1) / 0.2), runs: bench.runs },
  ]
}

/** create: a cold boot against QEMU by hand. S2: a fork against the same cold boots. */
export async function measureCreates(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'create', '256MB')
  const { client } = bench.server
  const [creates, forks, floors]: [number[], number[], number[]] = [[], [], []]
  for (let run = 0; run < bench.runs; run += 1) {
    if (bench.wants('create')) floors.push(await readyMsOf(bootByHand(source.layout, source.spec, OVERLAY_BYTES)))
    creates.push(await timed(() => create(bench.server, 'cold', '256MB')))
    await client.instances.delete('cold')
    forks.push(await timed(async () => client.snapshots.fork(source.snapshotId, { name: 'warm' })))
    await client.instances.delete('warm')
    bench.say(`create and fork: run ${run + 1} of ${bench.runs}`)
  }
  return [
    ratioRow('S2', 'fork against create (floor), 256MB', 1 / 20, forks, creates, '≤ 1/20 × create'),
    ratioRow('create', 'create to agent ready, cold', 1.3, creates, floors),
  ]
}
