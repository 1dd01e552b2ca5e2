// Every operation that an instance's state forbids is refused with 409 before it has changed anything: each cell of the table, by the real flows.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import path from 'node:path'
import { test } from 'node:test'
import { instanceStates, isLegal, type InstanceAction, type InstanceState } from '../api/actions.ts'
import { isHypemanError } from '../api/errors.ts'
import { KeyedLock } from '../platform/keyed-lock.ts'
import { Compressor, createSnapshotService, SealKeeper, SnapshotStore } from '../snapshots/index.ts'
import { stateOnly, testContext, type TestContext } from '../../tests/support/instance-context.ts'
import type { InstanceEntry } from './entry.ts'
import { createInstanceService } from './service.ts'

const now = new Date().toISOString()

/** What has to be seen of an instance for it to be in the state. */
const makings: Readonly<Record<InstanceState, (entry: InstanceEntry) => void>> = {
  Created: (entry) => (entry.machine = stateOnly('created')),
  Initializing: (entry) => (entry.machine = stateOnly('running')),
  Running: (entry) => {
    entry.machine = stateOnly('running')
    entry.record = { ...entry.record, programStartedAt: now, agentReadyAt: now }
  },
  Paused: (entry) => (entry.machine = stateOnly('paused')),
  Shutdown: (entry) => (entry.machine = stateOnly('shutdown')),
  Stopped: () => undefined,
  Standby: (entry) => (entry.holdsMemory = true),
  Unknown: (entry) => (entry.machine = stateOnly('failing')),
}

type Attempt = (world: TestContext, id: string) => Promise<unknown>

const attempts: Partial<Record<InstanceAction, Attempt>> = {
  start: (world, id) => instancesOf(world).start(id, {}),
  stop: (world, id) => instancesOf(world).stop(id),
  standby: (world, id) => instancesOf(world).standby(id, {}),
  restore: (world, id) => instancesOf(world).restore(id),
  fork: (world, id) => instancesOf(world).fork(id, { name: 'forked', from_running: true }, 'tests'),
  exec: (world, id) => instancesOf(world).agent(id, 0, AbortSignal.timeout(1_000)),
  stat: (world, id) => instancesOf(world).stat(id, '/', false, AbortSignal.timeout(1_000)),
  snapshotStandby: (world, id) => snapshotsOf(world).create(id, { kind: 'Standby' }, 'tests'),
  snapshotStopped: (world, id) => snapshotsOf(world).create(id, { kind: 'Stopped' }, 'tests'),
}

for (const [action, attempt] of Object.entries(attempts) as [InstanceAction, Attempt][])
  for (const state of instanceStates.filter((one): boolean => !isLegal(action, one)))
    test(`${action} of an instance that is ${state} is refused, and changes nothing`, async () => {
      await using world = await testContext()
      const entry = await world.add()
      makings[state](entry)
      assert.equal((await entry.observe()).state, state)
      const before = { record: entry.record, file: await recordFile(world, entry), machine: entry.machine }
      await assert.rejects(attempt(world, entry.id), (error) => {
        assert.ok(isHypemanError(error) && error.status === 409, String(error))
        assert.match(error.message, new RegExp(state))
        return true
      })
      assert.deepEqual({ record: entry.record, file: await recordFile(world, entry), machine: entry.machine }, before)
      assert.equal([...world.context.store.entries()].length, 1)
    })

function instancesOf({ context }: TestContext): ReturnType<typeof createInstanceService> {
  return createInstanceService(context, () => undefined)
}

function snapshotsOf({ context }: TestContext): ReturnType<typeof createSnapshotService> {
  const store = new SnapshotStore(context.layout, context.log)
  const host = { instances: context, store, locks: new KeyedLock(), keeper: new SealKeeper(context, store) }
  return createSnapshotService({ ...host, compressor: new Compressor(host, { keepMs: 0, lookEveryMs: 50 }) }, () => undefined)
}

function recordFile({ context }: TestContext, entry: InstanceEntry): Promise<string> {
  return readFile(path.join(context.layout.instance(entry.id), 'record.json'), 'utf8')
}
