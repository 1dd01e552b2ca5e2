// S7: many forks of one snapshot at once, through the API, and what each of them keeps for itself when it is idle.

import os from 'node:os'
import { LOADS_AT_ONCE } from '../src/instances/start.ts'
import { vmmOf } from '../tests/support/vmm.ts'
import { forkByHand } from './floor.ts'
import { defaultSpares, startLoadingAhead, untilLoadedAhead } from './loaded-ahead.ts'
import { against, judged, limitRow, median, ratioRow, timed, toldRow, type Bench, type Row } from './measure.ts'
import { privateMib } from './private-memory.ts'
import { readyMsOf, settle, sourceOf, type Source } from './source.ts'

const FORKS = 50
const WALL_LIMIT = 1.3
const PRIVATE_LIMIT_MIB = 1

interface Measured extends Pick<Bench, 'server' | 'say'> {
  readonly source: Source
  readonly walls: number[]
  readonly kept: number[]
  failed: number
}

/** The server as it is by default has loaded some of them ahead, since the snapshot was forked before; the same with none of them is told beside it. */
export async function measureManyForks(bench: Bench): Promise<Row[]> {
  const { say, server } = bench
  await using loading = await startLoadingAhead()
  await using source = await sourceOf(bench, 'many', '256MB')
  await using otherSource = await sourceOf({ server: loading, say }, 'many', '256MB')
  const usual: Measured = { server: loading, say, source: otherSource, walls: [], kept: [], failed: 0 }
  const none: Measured = { server, say, source, walls: [], kept: [], failed: 0 }
  const [floors, together]: [number[], number[]] = [[], []]
  await forkMany({ ...usual, walls: [], kept: [] })
  for (let round = 0; round < bench.longRuns; round += 1) {
    await untilLoadedAhead(loading, await defaultSpares())
    // One alone at a time: the machine has nothing else to do then.
    for (let run = 0; run < Math.ceil(bench.runs / bench.longRuns); run += 1)
      floors.push(await readyMsOf(forkByHand(source.layout, source.spec, source.payload)))
    {
      await using made = new AsyncDisposableStack()
      together.push(await timed(() => forkTogether(source, made)))
    }
    for (const measured of [none, usual]) await forkMany(measured)
    say(`${FORKS} forks: round ${round + 1} of ${bench.longRuns}`)
  }
  const cores = os.availableParallelism()
  const floor = (FORKS * median(floors)) / cores
  const failed = usual.failed + none.failed
  return [
    ratioRow(
      'S7',
      `${FORKS} forks at once, ${await defaultSpares()} of them loaded ahead`,
      WALL_LIMIT,
      usual.walls,
      [floor],
      `≤ ${WALL_LIMIT} × ${FORKS} × floor / ${cores}`,
    ),
    against(toldRow('S7', 'the same, none loaded ahead', 'ms', none.walls), [floor]),
    against(toldRow('S7', `${FORKS} forks by hand, ${LOADS_AT_ONCE} at a time`, 'ms', together), [floor]),
    judged(toldRow('S7', 'of these failed', 'forks', [failed]), 'none', failed === 0 ? 0 : 1 + failed),
    limitRow('S7', 'private guest memory of an idle fork', 'MiB', PRIVATE_LIMIT_MIB, [...usual.kept, ...none.kept]),
  ]
}

/** All at once, and gone again. */
async function forkMany(measured: Measured): Promise<void> {
  const { server, source, walls, kept, say } = measured
  const names = Array.from({ length: FORKS }, (_, index) => `many-${index}`)
  let outcomes: PromiseSettledResult<{ readonly id: string }>[] = []
  walls.push(
    await timed(async () => {
      outcomes = await Promise.allSettled(names.map(async (name) => server.client.snapshots.fork(source.snapshotId, { name })))
    }),
  )
  for (const outcome of outcomes) if (outcome.status === 'rejected') say(`a fork failed: ${String(outcome.reason)}`)
  const ids = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value.id] : []))
  measured.failed += FORKS - ids.length
  await Promise.all(ids.map((id) => settle(server, id)))
  for (const id of ids) kept.push(await privateMib(vmmOf(server, id)))
  for (const id of ids) await server.client.instances.delete(id)
}

/** As many forks as the server makes, without it: they stay until all are there, as the server's do. What is not ideal then is the machine's and QEMU's. */
async function forkTogether({ layout, spec, payload }: Source, made: AsyncDisposableStack): Promise<void> {
  let begun = 0
  const makeSome = async (): Promise<void> => {
    while (begun < FORKS) {
      begun += 1
      made.use(await forkByHand(layout, spec, payload))
    }
  }
  await Promise.all(Array.from({ length: LOADS_AT_ONCE }, makeSome))
}
