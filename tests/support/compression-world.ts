// Snapshots with memory that is to be compressed, in a data directory without a server: what a test of the compressor needs.

import { link, mkdir, readdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { createStaged, stageRecord } from '../../src/files/stage.ts'
import type { CompressionSetting } from '../../src/files/compression.ts'
import { type FaultPlan, type OpenFlow } from '../../src/platform/flow.ts'
import { KeyedLock } from '../../src/platform/keyed-lock.ts'
import { newId } from '../../src/platform/ids.ts'
import { compressionRecordOf } from '../../src/snapshots/compression-record.ts'
import { Compressor } from '../../src/snapshots/compressor.ts'
import { snapshotFlow, type SnapshotContext } from '../../src/snapshots/context.ts'
import { SealKeeper } from '../../src/snapshots/keeper.ts'
import type { SnapshotRecord } from '../../src/snapshots/record.ts'
import { readSeals, sealSnapshot } from '../../src/snapshots/seals.ts'
import { SnapshotStore } from '../../src/snapshots/store.ts'
import { aDriver, testContext, type TestContext } from './instance-context.ts'
import { aSnapshot } from './records.ts'
import { until } from './until.ts'

const driver = aDriver('qemu', { partOf: (file) => (file === 'device.state' ? 'state' : file.startsWith('memory') ? 'memory' : 'disk') })

export interface CompressionWorld extends AsyncDisposable {
  readonly snapshots: SnapshotContext
  /** Takes a snapshot with memory files of these contents, which is to be compressed; `alsoAt` are further names of all of them. */
  take(memory: Readonly<Record<string, Buffer>>, setting?: CompressionSetting, alsoAt?: string): Promise<SnapshotRecord>
  /** Takes one more that shares the memory of another. */
  takeSharing(other: SnapshotRecord, setting?: CompressionSetting): Promise<SnapshotRecord>
  /** Names of the files below a snapshot's directory that are memory, in one form or the other. */
  memoryOf(snapshot: SnapshotRecord): Promise<string[]>
  /** Names that are sealed of these. */
  sealedMemoryOf(snapshot: SnapshotRecord): string[]
  staged(): Promise<string[]>
  /** Waits until the snapshot's compression is in a state and nothing more is done for it at the time. */
  untilState(snapshot: SnapshotRecord, state: 'none' | 'compressed' | 'error'): Promise<void>
  flow(snapshot: SnapshotRecord): OpenFlow
  /** The same data directory, seen by a new server. `prepare` does something to it while there is none. */
  restart(prepare?: () => Promise<void>): Promise<CompressionWorld>
}

/** `faults` is asked at each step of each flow. */
export async function compressionWorld(faults?: FaultPlan, keepMs = 0, before?: TestContext): Promise<CompressionWorld> {
  const base = before ?? (await testContext())
  const instances = { ...base.context, faults, drivers: new Map([['qemu' as const, driver]]) }
  const { layout } = instances
  const store = new SnapshotStore(layout, instances.log)
  await store.load()
  const keeper = new SealKeeper(instances, store)
  const host = { instances, store, locks: new KeyedLock(), keeper }
  const compressor = new Compressor(host, { keepMs, lookEveryMs: 50 })
  await compressor.load()
  await keeper.resume()
  compressor.start()
  const snapshots: SnapshotContext = { ...host, compressor }
  const isMemory = (name: string): boolean => path.basename(name).startsWith('memory')
  const close = async (): Promise<void> => {
    await compressor[Symbol.asyncDispose]()
    await keeper[Symbol.asyncDispose]()
  }
  const zstd = { algorithm: 'zstd', level: 1 } as const
  /** Takes a snapshot whose payload is filled by the function. */
  const take = async (setting: CompressionSetting, fill: (payload: string) => Promise<void>): Promise<SnapshotRecord> => {
    const id = newId()
    await using staged = await createStaged(layout, id)
    const payload = path.join(staged.path, 'guest')
    await mkdir(payload)
    await fill(payload)
    await writeFile(path.join(payload, 'device.state'), `state of ${id}`)
    const record = aSnapshot({ id, kind: 'Standby' })
    await stageRecord(path.join(staged.path, 'snapshot.json'), record)
    const compression = compressionRecordOf(id, setting)
    await stageRecord(path.join(staged.path, 'compression.json'), compression)
    const seals = await sealSnapshot(staged.path, id, driver, instances.digests)
    await staged.commit(layout.snapshot(id))
    store.add(record)
    keeper.add(id, seals)
    compressor.add(compression)
    return record
  }
  return {
    snapshots,
    take: (memory, setting = zstd, alsoAt) =>
      take(setting, async (payload) => {
        for (const [name, content] of Object.entries(memory)) {
          await writeFile(path.join(payload, name), content)
          if (alsoAt !== undefined) await link(path.join(payload, name), path.join(alsoAt, name))
        }
      }),
    takeSharing: ({ id }, setting = zstd) =>
      take(setting, async (payload) => {
        const source = path.join(layout.snapshot(id), 'guest')
        for (const name of (await readdir(source)).filter(isMemory)) await link(path.join(source, name), path.join(payload, name))
      }),
    async memoryOf({ id }) {
      const names = await readdir(layout.snapshot(id), { recursive: true })
      return names.filter(isMemory).toSorted()
    },
    sealedMemoryOf: ({ id }) =>
      readSeals(layout.snapshot(id), id)
        .map(({ name }) => name)
        .filter(isMemory)
        .toSorted(),
    staged: () => readdir(layout.staging),
    untilState: (snapshot, state) =>
      until(`the compression of the snapshot is ${state}`, () => compressor.statusOf(snapshot.id)?.state === state),
    flow: (snapshot) => snapshotFlow(snapshots, snapshot.sourceInstanceId, 'test.use', snapshot.id),
    async restart(prepare = async () => undefined) {
      await close()
      await prepare()
      return compressionWorld(faults, keepMs, base)
    },
    async [Symbol.asyncDispose]() {
      await close()
      await base[Symbol.asyncDispose]()
    },
  }
}
