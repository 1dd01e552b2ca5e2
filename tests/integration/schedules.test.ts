// A real instance that is snapshotted by its schedule, through the official client: in the state that it is in, across a restart of the server, and after it is gone.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { NotFoundError, type Hypeman } from '@onkernel/hypeman'
import { startServer, type TestServer } from '../support/server.ts'
import { until } from '../support/until.ts'
import { countVm } from '../support/vm-count.ts'

/** Machines that are emulated take their time. */
const LIMIT_MS = 120_000

let server: TestServer
const schedules = (): Hypeman['instances']['snapshotSchedule'] => server.client.instances.snapshotSchedule

before(async () => {
  server = await startServer({ SNAPSHOTS__SHORTEST_INTERVAL: '1s' })
  await server.client.instances.create({ name: 'web', image: 'hypeman/base', size: '128MB', vcpus: 1, overlay_size: '256MB' })
  const { state } = await server.client.instances.wait('web', { state: 'Running', timeout: '2m' })
  assert.equal(state, 'Running')
  countVm('create')
})
after(() => server[Symbol.asyncDispose]())

async function unlessGone<T>(answer: Promise<T>): Promise<T | 'gone'> {
  try {
    return await answer
  } catch (error) {
    if (error instanceof NotFoundError) return 'gone'
    throw error
  }
}

async function scheduled(): Promise<Hypeman.Snapshot[]> {
  return await server.client.snapshots.list({ tags: { 'hypeman.scheduled': 'true' } })
}

/** Resolves when a snapshot of the kind has been taken by the schedule, with the schedule. */
async function taken(id: string, kind: Hypeman.Snapshot['kind']): Promise<Hypeman.Snapshot> {
  let found: Hypeman.Snapshot | undefined
  await until(
    `a ${kind} snapshot is taken`,
    async () => {
      const { last_snapshot_id: last } = await schedules().get(id)
      found = (await scheduled()).find((one) => one.id === last && one.kind === kind)
      return found !== undefined
    },
    LIMIT_MS,
  )
  return found ?? assert.fail('it was there')
}

test('a schedule takes snapshots with memory of a running instance, keeps the newest, and goes on when the server is back', async () => {
  const { id } = await server.client.instances.get('web')
  await assert.rejects(schedules().get('web'), { status: 404 })
  await assert.rejects(schedules().update('web', { interval: '999ms', retention: { max_count: 1 } }), { status: 400 })
  const byHand = await server.client.instances.snapshots.create('web', { kind: 'Standby', tags: { 'hypeman.scheduled': 'false' } })
  const body = { interval: '1s', retention: { max_count: 1 }, name_prefix: 'often', metadata: { team: 'web' } }
  const set = await schedules().update('web', body)
  assert.partialDeepStrictEqual(set, { ...body, instance_id: id })
  const first = await taken('web', 'Standby')
  assert.match(first.name ?? '', /^often-\d{8}-\d{6}$/)
  assert.deepEqual(first.tags, { team: 'web', 'hypeman.scheduled': 'true', 'hypeman.schedule_instance_id': id })
  assert.equal((await server.client.instances.get('web')).state, 'Running')
  await server.restart()
  await until('a later one takes its place', async () => (await taken('web', 'Standby')).id !== first.id, LIMIT_MS)
  await schedules().update('web', { ...body, interval: '24h' })
  // From here on nothing new is begun, and a delete waits for what was.
  await schedules().delete('web')
  assert.equal((await scheduled()).length, 1)
  assert.equal((await server.client.snapshots.get(byHand.id)).id, byHand.id)
  assert.equal((await server.client.snapshots.list()).length, 2)
})

test('a scheduled snapshot forks as any other', async () => {
  const [snapshot] = await scheduled()
  const fork = await server.client.snapshots.fork(snapshot?.id ?? '', { name: 'fork' })
  assert.equal(fork.state, 'Running')
  countVm('fork')
  await server.client.instances.delete('fork')
})

test('a stopped instance is snapshotted without memory; after it is deleted its schedule ends with its snapshots', async () => {
  const { id } = await server.client.instances.get('web')
  await server.client.instances.stop('web')
  await schedules().update('web', { interval: '1s', retention: { max_count: 2 } })
  await taken('web', 'Stopped')
  await server.client.instances.delete('web')
  assert.equal((await schedules().get(id)).instance_id, id)
  await until('the snapshots are gone', async () => {
    const left = await server.client.snapshots.list()
    // The end of the last run may delete one at the same time.
    for (const snapshot of left) await unlessGone(server.client.snapshots.delete(snapshot.id))
    return left.length === 0
  })
  await until('the schedule is gone', async () => (await unlessGone(schedules().get(id))) === 'gone')
})
