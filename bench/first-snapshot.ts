// S4: the first snapshot of a guest that booted cold and has touched a lot of memory, taken while it runs and, with `snapshots.live` off, while it
// stands still. Such a guest's memory is saved as a whole each time, so that one boot serves all runs.

import { open, rm } from 'node:fs/promises'
import path from 'node:path'
import { whyNotCatchWrites } from '../src/platform/host-rights.ts'
import { startServer, type TestServer } from '../tests/support/server.ts'
import { diskUse, newBytes } from './disk-use.ts'
import { fillMemory, mountMemory, whileEchoing } from './guest.ts'
import { against, limitRow, ratioRow, timed, toldRow, type Bench, type Row } from './measure.ts'
import { create, settle } from './source.ts'

const MIB = 1024 ** 2
const SIZE = '2GB'
const TOUCHED_MIB = 1024
const PAUSE_LIMIT_MS = 30
const CALL_LIMIT = 2

interface Series {
  readonly paused: number[]
  readonly calls: number[]
  readonly stalls: number[]
  /** A plain write of as many bytes. */
  readonly writes: number[]
}

export async function measureFirstSnapshots(bench: Bench): Promise<Row[]> {
  const lacking = whyNotCatchWrites()
  if (lacking !== undefined) {
    bench.leaveOut('S4', `no guest goes on while it is saved: ${lacking}`)
    return []
  }
  await using standingServer = await startServer({ SNAPSHOTS__LIVE: 'false' })
  await using liveServer = await startServer({ SNAPSHOTS__LIVE: 'true' })
  await using standing = await subjectOn(bench, standingServer)
  await using live = await subjectOn(bench, liveServer)
  for (let run = 0; run < bench.longRuns; run += 1) {
    await standing.take()
    await live.take()
    bench.say(`first snapshot: run ${run + 1} of ${bench.longRuns}`)
  }
  const { paused, calls, stalls, writes } = live.series
  const other = standing.series
  const whole = (how: string): string => `the whole of it against a plain write, ${how}`
  return [
    against(limitRow('S4', 'first snapshot, 1 GiB touched: paused', 'ms', PAUSE_LIMIT_MS, paused), other.paused),
    ratioRow('S4', whole('live'), CALL_LIMIT, calls, writes, `≤ ${CALL_LIMIT} × write`),
    against(toldRow('S4', whole('stop and copy'), 'ms', other.calls), other.writes),
    against(toldRow('S4', 'longest echo of the guest meanwhile', 'ms', stalls), other.stalls),
  ]
}

interface Subject extends AsyncDisposable {
  readonly series: Series
  take(): Promise<void>
}

async function subjectOn({ say }: Bench, server: TestServer): Promise<Subject> {
  say('boot first, 2GB, and fill it')
  const id = await create(server, 'first', SIZE)
  await mountMemory(server, id, TOUCHED_MIB)
  await fillMemory(server, id, TOUCHED_MIB)
  await settle(server, id)
  const series: Series = { paused: [], calls: [], stalls: [], writes: [] }
  return {
    series,
    async take() {
      const before = await diskUse(server.dataDirectory)
      let callMs = Number.NaN
      const { result, stallMs } = await whileEchoing(server, id, async () => {
        const from = performance.now()
        const taken = await server.client.instances.snapshots.create(id, { kind: 'Standby' })
        callMs = performance.now() - from
        return taken
      })
      const bytes = newBytes(before, await diskUse(server.dataDirectory))
      await server.client.snapshots.delete(result.id)
      series.paused.push((result as { readonly paused_ms?: number }).paused_ms ?? Number.NaN)
      series.calls.push(callMs)
      series.stalls.push(stallMs)
      series.writes.push(await plainWrite(path.join(server.dataDirectory, 'cache', 'plain'), bytes))
    },
    [Symbol.asyncDispose]: async () => server.client.instances.delete(id),
  }
}

/** Milliseconds for bytes that are no zeros, in order and synced. */
async function plainWrite(file: string, bytes: number): Promise<number> {
  const piece = Buffer.alloc(MIB, 'hypeman')
  const ms = await timed(async () => {
    await using handle = await open(file, 'wx')
    for (let done = 0; done < bytes; done += MIB) await handle.write(piece, 0, Math.min(MIB, bytes - done))
    await handle.sync()
  })
  await rm(file)
  return ms
}
