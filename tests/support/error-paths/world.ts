// A server on stand-ins that has everything that a request can fail on: instances in each state, things of which two begin alike, damaged ones, ones of another version.

import { mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import path from 'node:path'
import { Digests } from '../../../src/files/digests.ts'
import { dataLayout, instanceFiles, snapshotFiles } from '../../../src/files/layout.ts'
import { parseRecordText, recordText } from '../../../src/files/record-text.ts'
import type { PushRecord } from '../../../src/pushes/record.ts'
import { sealSnapshot } from '../../../src/snapshots/seals.ts'
import { run } from '../command.ts'
import { startFaultServer, type FaultServer } from '../fault-server/server.ts'
import type { TestServer } from '../server.ts'
import { sockets } from '../stand-in-hypervisor/machine.ts'
import { createStandIn } from '../stand-in-hypervisor/driver.ts'
import { standIn } from '../stand-in-hypervisor/server.ts'

/** Virtual processors that the host may promise: enough for what the tests make, and as many as one instance may have. */
const PROCESSORS = 16

/** Streams that one subject may have open. */
export const MOST_STREAMS = 3

const settings = {
  LIMITS__STREAMS_PER_SUBJECT: String(MOST_STREAMS),
  // Long enough for what is in order, short enough to be waited for in a test.
  ...{ TIMEOUTS__LOCK: '300ms', TIMEOUTS__RESTORE: '2s', TIMEOUTS__BOOT: '5s' },
  // A host that can be full.
  ...{ OVERSUBSCRIPTION__CPU: String((PROCESSORS + 0.5) / availableParallelism()), CAPACITY__DISK: '50GB', OVERSUBSCRIPTION__DISK: '1' },
}

/** Two instances, snapshots and volumes have ids that begin with this. */
export const common = 'aaaaaaaaaaaaaaaaaaaaaaa'
/** An instance, a snapshot and a volume of this id can't be read. */
export const unreadable = 'bbbbbbbbbbbbbbbbbbbbbbbb'
/** An instance in standby and a snapshot of this id were written by another version of the hypervisor. */
export const older = 'cccccccccccccccccccccccc'
/** An instance in standby and a snapshot of this id have damaged memory. */
export const damaged = 'dddddddddddddddddddddddd'
/** A name that two volumes have. */
export const namesake = 'namesake'

export interface ErrorWorld extends AsyncDisposable {
  readonly faults: FaultServer
  readonly server: TestServer
  /** Ids of snapshots of `runs`, `asleep` and `stopped`. */
  readonly shot: string
  readonly asleep: string
  readonly cold: string
}

/** Instances: `runs`, which has a secret of the server's own subject, `stopped`, `asleep`, and `deaf`, which runs and whose agent can't be reached. Volumes: `shelf`, and `held`, which `stopped` has. */
export async function errorWorld(): Promise<ErrorWorld> {
  await using undo = new AsyncDisposableStack()
  const faults = undo.use(await startFaultServer({ on: 'stand-ins', settings }))
  const { server } = faults
  const { client } = server
  const create = async (name: string, change: object = {}): Promise<string> => {
    const { id } = await client.instances.create({ ...standIn, name, ...change })
    await client.instances.wait(name, { state: 'Running', timeout: '1m' })
    return id
  }
  await client.volumes.create({ name: 'shelf', size_gb: 1 })
  const held = await client.volumes.create({ name: 'held', size_gb: 1 })
  await create('runs', { secret_env: { TOKEN: 'x' }, secret_files: { 'tls.key': 'x' } })
  const stopped = await create('stopped', { volumes: [{ volume_id: held.id, mount_path: '/held', readonly: true }] })
  await client.instances.stop('stopped')
  const asleep = await create('asleep')
  await client.instances.standby('asleep')
  const { id: shot } = await client.instances.snapshots.create('runs', { kind: 'Standby', name: 'shot' })
  const { id: dream } = await client.instances.snapshots.create('asleep', { kind: 'Standby', name: 'dream' })
  const { id: cold } = await client.instances.snapshots.create('stopped', { kind: 'Stopped', name: 'cold' })
  const deaf = await create('deaf')
  await server.stop()

  await prepare(server, { deaf, stopped, asleep, shot: dream, held: held.id })
  await server.restart()
  const owned = undo.move()
  return { faults, server, shot, asleep: dream, cold, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

interface Originals {
  readonly deaf: string
  readonly stopped: string
  readonly asleep: string
  readonly shot: string
  readonly held: string
}

const endedPush: Omit<PushRecord, 'id'> = {
  version: 1,
  image: 'docker.io/hypeman/base:latest',
  target: '127.0.0.1:9/nobody/listens:0',
  digest: `sha256:${'0'.repeat(64)}`,
  insecure: false,
  borrowed: false,
  status: 'failed',
  createdAt: '2026-01-01T00:00:00.000Z',
  completedAt: '2026-01-01T00:00:00.000Z',
  layers: null,
  bytes: null,
  error: 'nobody listened',
}

/** Puts copies beside what the server, which does not run, has made. */
async function prepare({ dataDirectory }: TestServer, { deaf, stopped, asleep, shot, held }: Originals): Promise<void> {
  const layout = dataLayout(dataDirectory)
  const instance = (from: string, id: string, change: Change = () => ({})): Promise<void> =>
    copied(layout.instance(from), layout.instance(id), instanceFiles.record, (record) => ({
      id,
      name: `copy-${id.slice(-2)}`,
      ...change(record),
    }))
  const snapshot = (id: string, change: Change = () => ({})): Promise<void> =>
    copied(layout.snapshot(shot), layout.snapshot(id), snapshotFiles.record, (record) => ({
      id,
      name: `copy-${id.slice(-2)}`,
      ...change(record),
    }))
  const volume = (id: string): Promise<void> =>
    copied(layout.volume(held), layout.volume(id), 'volume.json', () => ({ id, name: namesake }))

  const { agent } = sockets
  await rename(path.join(layout.instance(deaf), agent), path.join(layout.instance(deaf), `${agent}.gone`))
  for (const twin of [`${common}1`, `${common}2`]) {
    await instance(stopped, twin)
    await snapshot(twin)
    await volume(twin)
    await writeFile(layout.push(twin), recordText({ ...endedPush, id: twin }))
  }
  for (const directory of [layout.instance(unreadable), layout.snapshot(unreadable), layout.volume(unreadable)])
    await mkdir(directory, { recursive: true })
  await instance(asleep, older, (record) => ({ stamp: ofAnotherVersion(record['stamp']), savedMemory: null }))
  await snapshot(older, ({ instance: source }) => ({
    instance: { ...(source as Values), stamp: ofAnotherVersion((source as Values)['stamp']) },
  }))
  await instance(asleep, damaged)
  await snapshot(damaged)
  await using digests = new Digests()
  for (const id of [older, damaged]) {
    await rm(path.join(layout.snapshot(id), snapshotFiles.seals))
    await sealSnapshot(layout.snapshot(id), id, createStandIn({ name: 'qemu', program: '' }), digests)
  }
  for (const directory of [layout.instance(damaged), path.join(layout.snapshot(damaged), snapshotFiles.payload)])
    await writeFile(path.join(directory, 'memory.json'), '{"disk": 7, "savedBy": null}')
}

type Values = Readonly<Record<string, unknown>>
type Change = (record: Values) => Values

/** A copy of a directory whose record is changed. */
async function copied(from: string, to: string, file: string, change: Change): Promise<void> {
  await run('cp', ['-a', '--sparse=always', from, to])
  const record = parseRecordText(await readFile(path.join(to, file), 'utf8')) as Values
  await writeFile(path.join(to, file), recordText({ ...record, ...change(record) }))
}

function ofAnotherVersion(stamp: unknown): Values {
  return { ...(stamp as Values), version: '0' }
}
