// memory: the server's own memory with ten machines running. A server of its own: what others did on it would still be in its memory.

import { startServer } from '../tests/support/server.ts'
import { limitRow, residentMb, type Bench, type Row } from './measure.ts'
import { sourceOf } from './source.ts'

const INSTANCES = 10
const LIMIT_MB = 150

export async function measureMemory(bench: Bench): Promise<Row[]> {
  await using server = await startServer()
  await using source = await sourceOf({ server, say: bench.say }, 'memory', '256MB')
  const names = Array.from({ length: INSTANCES - 1 }, (_, index) => `m-${index}`)
  for (const name of names) await server.client.snapshots.fork(source.snapshotId, { name })
  const resident = await residentMb(server.pid)
  for (const name of names) await server.client.instances.delete(name)
  return [limitRow('memory', `server's resident memory with ${INSTANCES} instances`, 'MB', LIMIT_MB, [resident])]
}
