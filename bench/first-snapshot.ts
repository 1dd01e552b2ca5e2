// S4: the first snapshot of a guest that booted cold and has touched a lot of memory, taken while it runs and, with `snapshots.live` off, while it
// stands still. Each guest is booted for one run: its first snapshot is taken at rest, one more while it echoes.

import { open, rm } from 'node:fs/promises'
import path from 'node:path'
import { whyNotCatchWrites } from '../src/platform/host-rights.ts'
import { startServer, type TestServer } from '../tests/support/server.ts'
import { fillMemory, mountMemory, whileEchoing } from './guest.ts'
import { against, limitRow, ratioRow, timed, toldRow, type Bench, type Row } from './measure.ts'
import { create, settle } from './source.ts'

const MIB = 1024 ** 2
const SIZE = '2GB'
const TOUCHED_MIB = 1024
const PAUSE_LIMIT_MS = 30
const CALL_LIMIT = 2

interface Taken {
  readonly pausedMs: number
  readonly callMs: number
}

interface Run {
  /** With a plain write of what was touched. */
  readonly first: Taken & { readonly writeMs: number }
  /** Of the same process once more, while bytes are echoed. */
  readonly next: Taken & { readonly stallMs: number }
}

export async function measureFirstSnapshots(bench: Bench): Promise<Row[]> {
  const lacking = whyNotCatchWrites()
  if (lacking !== undefined) {
    bench.leaveOut('S4', `no guest goes on while it is saved: ${lacking}`)
    return []
  }
  await using standingServer = await startServer({ SNAPSHOTS__LIVE: 'false' })
  await using liveServer = await startServer({ SNAPSHOTS__LIVE: 'true' })
  const [live, standing]: [Run[], Run[]] = [[], []]
  for (let run = 0; run < bench.longRuns; run += 1) {
    standing.push(await runOn(standingServer))
    live.push(await runOn(liveServer))
    bench.say(`first snapshot: run ${run + 1} of ${bench.longRuns}`)
  }
  const of = (runs: readonly Run[], value: (run: Run) => number): number[] => runs.map((run) => value(run))
  const whole = (how: string): string => `the whole of it against a plain write, ${how}`
  const paused = limitRow(
    'S4',
    'first snapshot, 1 GiB touched: paused',
    'ms',
    PAUSE_LIMIT_MS,
    of(live, ({ first }) => first.pausedMs),
  )
  const standStill = of(standing, ({ first }) => first.pausedMs)
  const [calls, writes] = [of(live, ({ first }) => first.callMs), of(live, ({ first }) => first.writeMs)]
  const [standingCalls, standingWrites] = [of(standing, ({ first }) => first.callMs), of(standing, ({ first }) => first.writeMs)]
  const echoed = (what: string, value: (next: Run['next']) => number): Row =>
    against(
      toldRow(
        'S4',
        `the next one, of a guest that echoes: ${what}`,
        'ms',
        of(live, ({ next }) => value(next)),
      ),
      of(standing, ({ next }) => value(next)),
    )
  return [
    against(paused, standStill),
    ratioRow('S4', whole('live'), CALL_LIMIT, calls, writes, `≤ ${CALL_LIMIT} × write`),
    against(toldRow('S4', whole('stop and copy'), 'ms', standingCalls), standingWrites),
    echoed('paused', ({ pausedMs }) => pausedMs),
    echoed('longest echo', ({ stallMs }) => stallMs),
    echoed('the whole of it', ({ callMs }) => callMs),
  ]
}

async function runOn(server: TestServer): Promise<Run> {
  const id = await create(server, 'first', SIZE)
  await mountMemory(server, id, TOUCHED_MIB)
  await fillMemory(server, id, TOUCHED_MIB)
  await settle(server, id)
  // Blocks that the disk has never had are slower than those of a file that has just been removed: so one write before, and one after.
  const before = await plainWrite(server, TOUCHED_MIB * MIB)
  const first = await takeOf(server, id)
  const after = await plainWrite(server, TOUCHED_MIB * MIB)
  const { result: next, stallMs } = await whileEchoing(server, id, () => takeOf(server, id))
  await server.client.instances.delete(id)
  return { first: { ...first, writeMs: (before + after) / 2 }, next: { ...next, stallMs } }
}

async function takeOf(server: TestServer, id: string): Promise<Taken> {
  let taken = { id: '', paused_ms: Number.NaN }
  const callMs = await timed(async () => {
    taken = { paused_ms: Number.NaN, ...(await server.client.instances.snapshots.create(id, { kind: 'Standby' })) }
  })
  await server.client.snapshots.delete(taken.id)
  return { pausedMs: taken.paused_ms, callMs }
}

/** Milliseconds for bytes that are no zeros, in order and synced. */
async function plainWrite(server: TestServer, bytes: number): Promise<number> {
  const file = path.join(server.dataDirectory, 'cache', 'plain')
  const piece = Buffer.alloc(MIB, 'hypeman')
  const ms = await timed(async () => {
    await using handle = await open(file, 'wx')
    for (let done = 0; done < bytes; done += MIB) await handle.write(piece, 0, Math.min(MIB, bytes - done))
    await handle.sync()
  })
  await rm(file)
  return ms
}
