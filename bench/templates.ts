// S4b: creates that begin with a template, against forks of such a machine, on a server of their own: the others have templates switched off.

import { readdir } from 'node:fs/promises'
import { dataLayout } from '../src/files/layout.ts'
import { startServer } from '../tests/support/server.ts'
import { until } from '../tests/support/until.ts'
import { ratioRow, timed, type Bench, type Row } from './measure.ts'
import { create, settle } from './source.ts'

const TEMPLATE_LIMIT_MS = 120_000

export async function measureTemplates(bench: Bench): Promise<Row[]> {
  await using server = await startServer({ TEMPLATES: 'true' })
  bench.say('boot first, and make a template')
  const first = await create(server, 'first', '256MB')
  const { templates } = dataLayout(server.dataDirectory)
  await until('the template is there', async () => (await readdir(templates)).length > 0, TEMPLATE_LIMIT_MS)
  await settle(server, first)
  const { client } = server
  const snapshot = await client.instances.snapshots.create(first, { kind: 'Standby' })
  const [creates, forks]: [number[], number[]] = [[], []]
  for (let run = 0; run < bench.runs; run += 1) {
    creates.push(await timed(() => create(server, 'begun', '256MB')))
    await client.instances.delete('begun')
    forks.push(await timed(async () => client.snapshots.fork(snapshot.id, { name: 'forked' })))
    await client.instances.delete('forked')
    bench.say(`create from a template: run ${run + 1} of ${bench.runs}`)
  }
  return [ratioRow('S4b', 'create from a template against fork (floor), 256MB', 1.5, creates, forks, '≤ 1.5 × fork')]
}
