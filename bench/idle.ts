// S10: what a server costs that has instances but nothing to do. A server of its own: what others did on it would still be in its memory.

import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { untilHashed } from '../tests/support/snapshot-files.ts'
import { startServer } from '../tests/support/server.ts'
import { limitRow, residentMb, toldRow, type Bench, type Row } from './measure.ts'
import { sourceOf } from './source.ts'

const STOPPED = 100
const STANDBY = 20
const CORE_LIMIT_PERCENT = 0.5
const TICKS_PER_SECOND = 100
/** What was asked for before is over by then. */
const REST_MS = 5_000
const HOUR_S = 3_600
/** A process in garbage-collected memory is never quite the same: what counts as none. */
const GROWTH_LIMIT_MB = 2
/** An interrupt is seen this often, in seconds. */
const STEP_S = 10

export async function measureIdle({ idleSeconds, say }: Bench): Promise<Row[]> {
  await using server = await startServer()
  {
    await using source = await sourceOf({ server, say }, 'idle', '256MB')
    const fork = async (name: string, target: 'Stopped' | 'Standby'): Promise<void> => {
      await server.client.snapshots.fork(source.snapshotId, { name, target_state: target })
      say(`make ${name}`)
    }
    for (let made = 0; made < STOPPED; made += 1) await fork(`stopped-${made}`, 'Stopped')
    for (let made = 0; made < STANDBY; made += 1) await fork(`standby-${made}`, 'Standby')
    await untilHashed(server, source.snapshotId)
  }
  await delay(REST_MS)
  const [ticks, memory, from] = [await cpuTicks(server.pid), await residentMb(server.pid), performance.now()]
  for (let waited = 0; waited < idleSeconds; waited += STEP_S) {
    say(`idle for ${waited} of ${idleSeconds} s`)
    await delay(Math.min(STEP_S, idleSeconds - waited) * 1000)
  }
  const seconds = (performance.now() - from) / 1000
  const percent = ((await cpuTicks(server.pid)) - ticks) / TICKS_PER_SECOND / seconds
  const growth = (await residentMb(server.pid)) - memory
  const what = `of a core, idle for ${idleSeconds} s with ${STOPPED} stopped and ${STANDBY} standby`
  return [
    limitRow('S10', what, '%', CORE_LIMIT_PERCENT, [percent * 100]),
    idleSeconds >= HOUR_S
      ? limitRow('S10', 'growth of its resident memory in an hour', 'MB', GROWTH_LIMIT_MB, [growth], `none (≤ ${GROWTH_LIMIT_MB} MB)`)
      : toldRow('S10', `growth of its resident memory in ${idleSeconds} s`, 'MB', [growth]),
  ]
}

/** Processor time of a process and of its children that have ended. proc(5), `/proc/<pid>/stat`: 100 ticks a second. */
async function cpuTicks(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
}
