// memory: the server's own memory with ten machines running.

import { limitRow, residentMb, type Bench, type Row } from './measure.ts'
import { sourceOf } from './source.ts'

const INSTANCES = 10
const LIMIT_MB = 150

export async function measureMemory(bench: Bench): Promise<Row[]> {
  await using source = await sourceOf(bench, 'memory', '256MB')
  const names = Array.from({ length: INSTANCES - 1 }, (_, index) => `m-${index}`)
  for (const name of names) await bench.server.client.snapshots.fork(source.snapshotId, { name })
  const resident = await residentMb(bench.server.pid)
  for (const name of names) await bench.server.client.instances.delete(name)
  return [limitRow('memory', `server's resident memory with ${INSTANCES} instances`, 'MB', LIMIT_MB, [resident])]
}
