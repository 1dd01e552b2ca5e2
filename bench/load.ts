// L1 to L4: how many requests a second the server answers, and how soon, at few and at many connections, against /health in the same run, which is
// what the server costs without a service behind it; and the same while clients hold connections open that they hardly use.

import autocannon from 'autocannon'
import { dataLayout } from '../src/files/layout.ts'
import { startServer, type TestServer } from '../tests/support/server.ts'
import { against, quantile, toldRateRow, toldRow, type Bench, type Row } from './measure.ts'
import { openSlowClients } from './slow-clients.ts'
import { putStopped } from './stopped-instances.ts'

const INSTANCES = 100
const CONNECTIONS = [1, 16, 128] as const
const SECONDS = 2
const SLOW_CLIENTS = 50
const BESIDE_SLOW_CLIENTS = 16

export interface Sample {
  /** Answers a second. */
  readonly rate: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
}

interface Asked {
  readonly id: string
  readonly what: string
  readonly path: string
  readonly status: number
  readonly body?: string
}

const health: Asked = { id: 'health', what: 'health', path: '/health', status: 200 }

export async function measureLoad({ longRuns, say }: Bench): Promise<Row[]> {
  await using server = await startServer()
  await server.stop()
  const layout = dataLayout(server.dataDirectory)
  const ids: string[] = []
  for (let index = 0; index < INSTANCES; index += 1) ids.push((await putStopped(layout, index, 'load')).id)
  await server.restart()
  const all: readonly Asked[] = [
    { id: 'L1', what: `list ${INSTANCES} instances`, path: '/instances', status: 200 },
    { id: 'L2', what: 'get an instance', path: `/instances/${ids[INSTANCES / 2] ?? ''}`, status: 200 },
    { id: 'L3', what: 'create, refused', path: '/instances', status: 400, body: '{"name":5}' },
  ]
  const samples = new Map<string, Sample[]>()
  // The first round compiles code, and is not counted.
  for (let run = -1; run < longRuns; run += 1) {
    const take = async (key: string, asked: Asked, connections: number): Promise<void> => {
      say(`${asked.what}, ${key}`)
      const sample = await sampleOf(server, asked, connections)
      if (run >= 0) samples.set(`${asked.id} ${key}`, [...(samples.get(`${asked.id} ${key}`) ?? []), sample])
    }
    // What the slow clients are compared with comes right before them.
    for (const connections of CONNECTIONS.toSorted(
      (one, other) => Number(one === BESIDE_SLOW_CLIENTS) - Number(other === BESIDE_SLOW_CLIENTS),
    ))
      for (const asked of [health, ...all]) await take(keyOf(connections), asked, connections)
    using _slow = await openSlowClients(server, SLOW_CLIENTS)
    for (const asked of [health, ...all]) await take('slow', asked, BESIDE_SLOW_CLIENTS)
  }
  const of = (id: string, key: string): readonly Sample[] => samples.get(`${id} ${key}`) ?? []
  return [
    ...all.flatMap(({ id, what }) =>
      CONNECTIONS.flatMap((connections) => {
        const key = keyOf(connections)
        return rowsOf(id, `${what}, ${key}`, of(id, key), of(health.id, key))
      }),
    ),
    ...[health, ...all].flatMap(({ id, what }) =>
      rowsOf('L4', `${what}, beside ${SLOW_CLIENTS} slow clients`, of(id, 'slow'), of(id, keyOf(BESIDE_SLOW_CLIENTS))),
    ),
  ]
}

function keyOf(connections: number): string {
  return connections === 1 ? '1 connection' : `${connections} connections`
}

/** The three rows of what was asked so, beside what it is compared with. */
export function rowsOf(id: string, what: string, samples: readonly Sample[], floors: readonly Sample[]): Row[] {
  const of = (one: keyof Sample): [number[], number[]] => [samples.map((sample) => sample[one]), floors.map((sample) => sample[one])]
  const [[rates, rateFloors], [p50s, p50Floors], [p99s, p99Floors]] = [of('rate'), of('p50'), of('p99')]
  return [
    against(toldRateRow(id, `${what}: a second`, '/s', rates), rateFloors),
    against(toldRow(id, `${what}: p50`, 'ms', p50s), p50Floors),
    against(toldRow(id, `${what}: p99`, 'ms', p99s), p99Floors),
  ]
}

/** Throws when an answer is not the one that is measured. */
async function sampleOf(server: TestServer, { path, status, body }: Asked, connections: number): Promise<Sample> {
  const times: number[] = []
  const unexpected = new Map<number, number>()
  const done = Promise.withResolvers<autocannon.Result>()
  const run = autocannon(
    {
      url: `${server.url}${path}`,
      connections,
      duration: SECONDS,
      headers: { authorization: `Bearer ${server.token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
      ...(body === undefined ? {} : { method: 'POST' as const, body }),
    },
    (error: Error | null, result) => (error === null ? done.resolve(result) : done.reject(error)),
  )
  // Its own histogram counts whole milliseconds.
  run.on('response', (_client, statusCode, _bytes, ms) => {
    if (statusCode === status) times.push(ms)
    else unexpected.set(statusCode, (unexpected.get(statusCode) ?? 0) + 1)
  })
  const result = await done.promise
  if (unexpected.size > 0 || result.errors > 0 || times.length === 0)
    throw new Error(
      `${path} was answered with ${JSON.stringify([...unexpected])}, and ${result.errors} requests failed, where ${status} was expected`,
    )
  return { rate: times.length / result.duration, p50: quantile(times, 0.5), p99: quantile(times, 0.99) }
}
