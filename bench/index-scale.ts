// S9: what 1 000 instances and 10 000 snapshots on disk cost the server, against a server with none in the same run. The records are the
// product's own, written by its own writers; the payloads are empty, since nothing here reads them.

import { Agent, get } from 'node:http'
import path from 'node:path'
import { dataLayout, type DataLayout } from '../src/files/layout.ts'
import { aSnapshot, putSnapshot } from '../tests/support/records.ts'
import { startServer, type TestServer } from '../tests/support/server.ts'
import { against, limitRow, rateRow, residentMb, timed, type Bench, type Row } from './measure.ts'
import { putStopped } from './stopped-instances.ts'

const INSTANCES = 1_000
const SNAPSHOTS_EACH = 10
/** Of the snapshots, one in so many carries the tag that is asked for. */
const TEAMS = 100
/** Lookups by id that a run makes, and how many are under way at a time. */
const LOOKUPS = 5_000
const LOOKUPS_AT_ONCE = 16
const LOOKUPS_PER_SECOND = 3_000

export async function measureIndex({ runs, say }: Bench): Promise<Row[]> {
  await using empty = await startServer()
  await using full = await startServer()
  await full.stop()
  const ids = await fillDirectory(dataLayout(full.dataDirectory), say)
  const of = async (
    measure: (server: TestServer) => Promise<number>,
  ): Promise<{ readonly floors: number[]; readonly values: number[] }> => {
    const [floors, values]: [number[], number[]] = [[], []]
    for (let run = 0; run < runs; run += 1) {
      floors.push(await measure(empty))
      values.push(await measure(full))
    }
    return { floors, values }
  }
  say(`start with ${ids.length} snapshots`)
  const starts = await of(async (server) => {
    await server.stop()
    return timed(() => server.restart())
  })
  const asked: readonly (readonly [what: string, target: string])[] = [
    [`list ${ids.length} snapshots`, '/snapshots'],
    [`list ${INSTANCES} instances`, '/instances'],
    ['list snapshots of a tag', '/snapshots?tags[team]=t7'],
  ]
  const rows: Row[] = [against(limitRow('S9', 'start to serving', 'ms', 3_000, starts.values), starts.floors)]
  for (const [what, target] of asked) {
    say(what)
    const { values, floors } = await of((server) => timed(() => fetchAll(server, target)))
    rows.push(against(limitRow('S9', what, 'ms', 60, values), floors))
  }
  say('get by id')
  const rates: number[] = []
  for (let run = 0; run < runs; run += 1) rates.push(await lookupRate(full, ids))
  const [memory, floor] = [await residentMb(full.pid), await residentMb(empty.pid)]
  return [
    ...rows,
    rateRow('S9', `snapshots got by id, ${LOOKUPS_AT_ONCE} at a time`, '/s', LOOKUPS_PER_SECOND, rates),
    against(limitRow('S9', "server's resident memory after all this", 'MB', 200, [memory]), [floor]),
  ]
}

/** Returns the ids of the snapshots. */
async function fillDirectory(layout: DataLayout, say: (text: string) => void): Promise<string[]> {
  const ids: string[] = []
  for (let index = 0; index < INSTANCES; index += 1) {
    const record = await putStopped(layout, index, `t${index % TEAMS}`)
    for (let taken = 0; taken < SNAPSHOTS_EACH; taken += 1) {
      const snapshot = aSnapshot({ instance: record, name: `s-${taken}`, tags: record.tags })
      await putSnapshot(layout, snapshot)
      ids.push(snapshot.id)
    }
    if (index % 100 === 0) say(`write ${path.basename(layout.root)}: ${index} of ${INSTANCES} instances`)
  }
  return ids
}

const agent = new Agent({ keepAlive: true, maxSockets: LOOKUPS_AT_ONCE })

/** Reads an answer to its end; returns its length in bytes. */
function fetchAll(server: TestServer, target: string): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  get(new URL(target, server.url), { agent, headers: { authorization: `Bearer ${server.token}` } }, (response) => {
    let bytes = 0
    response.on('data', (chunk: Buffer) => (bytes += chunk.length))
    response.on('error', reject)
    response.on('end', () =>
      response.statusCode === 200 ? resolve(bytes) : reject(new Error(`${target} was answered with ${response.statusCode}`)),
    )
  }).on('error', reject)
  return promise
}

async function lookupRate(server: TestServer, ids: readonly string[]): Promise<number> {
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < LOOKUPS) {
      next += 1
      await fetchAll(server, `/snapshots/${ids[(next * 7919) % ids.length] ?? ''}`)
    }
  }
  const ms = await timed(() => Promise.all(Array.from({ length: LOOKUPS_AT_ONCE }, worker)))
  return (LOOKUPS / ms) * 1000
}
