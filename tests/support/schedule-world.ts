// Schedules on a temporary data directory, with instances whose machines a test scripts, and with the time that the test says it is. No guest is needed.

import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { mock } from 'node:test'
import type { SetScheduleBody } from '../../src/api/schemas/schedule.ts'
import type { InstanceContext, InstanceEntry } from '../../src/instances/index.ts'
import { ScheduleWorker } from '../../src/jobs/schedules.ts'
import { KeyedLock } from '../../src/platform/keyed-lock.ts'
import { createScheduleService, ScheduleStore, type ScheduleContext } from '../../src/schedules/index.ts'
import type { ScheduleService } from '../../src/schedules/types.ts'
import { Compressor, SealKeeper, SnapshotStore, type SnapshotRecord } from '../../src/snapshots/index.ts'
import { aDriver, testContext, type TestContext } from './instance-context.ts'

export const MINUTE = 60_000
export const HOUR = 60 * MINUTE

/** When every test begins. */
export const START = Date.parse('2026-01-02T03:04:05.000Z')

/** The clock stands still but for what the test sets. */
export function withClock(): Disposable {
  mock.timers.enable({ apis: ['Date'], now: START })
  return { [Symbol.dispose]: () => mock.timers.reset() }
}

export interface ScheduleWorld extends AsyncDisposable {
  readonly context: ScheduleContext
  readonly instances: InstanceContext
  readonly service: ScheduleService
  readonly worker: ScheduleWorker
  /** What was deleted has been told so often. */
  removals: number
  /** A Stopped instance, or one of another record. */
  add: TestContext['add']
  /** Sets the clock, lets the worker look, and waits until all that it began is done. */
  at(ms: number): Promise<void>
  /** A schedule of an instance: each hour, the two newest stay. */
  schedule(entry: InstanceEntry, body?: Partial<SetScheduleBody>): Promise<void>
  /** An instance with a schedule, and when that is due. */
  scheduled(): Promise<{ readonly entry: InstanceEntry; readonly due: number }>
  /** Oldest first. */
  snapshotsOf(instanceId: string): readonly SnapshotRecord[]
  /** When the schedule of an instance is due, in milliseconds since 1970. */
  dueOf(instanceId: string): number
  /** Ends the worker, and reads everything anew as the next server does, whose world is then the one to dispose of. */
  restart(): Promise<ScheduleWorld>
}

const driver = aDriver('qemu', {
  partOf: () => 'disk',
  share: (_instance, payload) => writeFile(path.join(payload, 'disk'), 'what the disk holds'),
})

/** `parts` replaces what the test breaks. */
export async function scheduleWorld(parts: Partial<InstanceContext> = {}): Promise<ScheduleWorld> {
  return open(await testContext({ drivers: new Map([['qemu', driver]]), ...parts }))
}

async function open(base: TestContext): Promise<ScheduleWorld> {
  // A busy instance is waited for, though not for long.
  const instances = { ...base.context, settings: { ...base.context.settings, lockWaitMs: 5 } }
  const { layout, log, faults } = instances
  const snapshotStore = new SnapshotStore(layout, log)
  await snapshotStore.load()
  const keeper = new SealKeeper(instances, snapshotStore)
  const store = new ScheduleStore(layout, { log, faults })
  await store.load()
  const host = { instances, store: snapshotStore, locks: new KeyedLock(), keeper }
  const compressor = new Compressor(host, { keepMs: 0, lookEveryMs: 50 })
  const snapshots = { ...host, compressor }
  const context = { snapshots, store, locks: new KeyedLock(), shortestIntervalMs: MINUTE }
  const worker = new ScheduleWorker(context, () => {
    world.removals += 1
  })
  const service = createScheduleService(context, () => worker.look())
  const close = async (): Promise<void> => {
    await worker[Symbol.asyncDispose]()
    await compressor[Symbol.asyncDispose]()
    await keeper[Symbol.asyncDispose]()
  }
  let isOver = false
  const world: ScheduleWorld = {
    context,
    instances,
    service,
    worker,
    removals: 0,
    add: (change) => base.add(change),
    async at(ms) {
      mock.timers.setTime(ms)
      worker.look()
      await worker.idle()
    },
    async schedule(entry, body = {}) {
      await service.set(entry.id, { interval: '1h', retention: { max_count: 2 }, ...body })
    },
    async scheduled() {
      const entry = await base.add()
      await world.schedule(entry)
      return { entry, due: world.dueOf(entry.id) }
    },
    snapshotsOf: (sourceInstanceId) => snapshotStore.list({ sourceInstanceId }),
    dueOf: (instanceId) => Date.parse(store.byInstance(instanceId)?.nextRunAt ?? ''),
    async restart() {
      await close()
      isOver = true
      return open(base)
    },
    async [Symbol.asyncDispose]() {
      if (isOver) return
      await close()
      await base[Symbol.asyncDispose]()
    },
  }
  return world
}
