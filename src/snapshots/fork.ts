// Flow: a new instance from a snapshot. Any number may run at once; a snapshot is not deleted while one does.

import { HypemanError } from '../api/errors.ts'
import { stampWords } from '../hypervisors/versions.ts'
import {
  canBeSpare,
  demandFit,
  driverOf,
  environmentOfFork,
  forkFromPayload,
  makeSpare,
  type ForkRequest,
  type ForkUnderWay,
  type InstanceEntry,
} from '../instances/index.ts'
import type { FlowContext } from '../platform/flow.ts'
import { checkSnapshot } from './check.ts'
import { holdSnapshot, payloadOf, type SnapshotContext } from './context.ts'
import type { SnapshotRecord } from './record.ts'
import { targetOf, type Target, type TargetRequest } from './target.ts'

export interface ForkSnapshot extends TargetRequest, Pick<ForkRequest, 'name' | 'owner' | 'environment'> {}

export async function forkSnapshot(context: SnapshotContext, record: SnapshotRecord, request: ForkSnapshot): Promise<InstanceEntry> {
  const target = targetOf(record, request)
  await checkTarget(context, record, target)
  using _hold = await holdSnapshot(context, record, true)
  if (context.store.byId(record.id) === undefined) throw new HypemanError('not_found', `the snapshot ${record.id} is gone`)
  const withMemory = record.kind === 'Standby' && target.state !== 'Stopped'
  const source = {
    payload: await payloadOf(context, record),
    withMemory: record.kind === 'Standby',
    record: record.instance,
    snapshotId: record.id,
    ...(withMemory ? { prepare: (flow: FlowContext) => context.compressor.makeReady(record, flow) } : {}),
    check: () => checkSnapshot(context, record, withMemory),
  }
  const { name, owner, environment } = request
  const wanted = { name, owner, environment, targetState: target.state, hypervisor: target.hypervisor }
  // What is refused takes nothing that was loaded ahead for others.
  environmentOfFork(context.instances, source, wanted)
  context.instances.store.demandFreeName(name)
  using underWay = target.state === 'Running' && withMemory ? beginFork(context, record) : undefined
  await using unused = new AsyncDisposableStack()
  const spare = unused.use(underWay?.take())
  const fork = await forkFromPayload(context.instances, { ...source, spare }, wanted)
  unused.move()
  return fork
}

/** Counts a fork, so that the next ones are loaded ahead; undefined where they can't be. Compressed memory is not brought back for what nobody has asked for. */
function beginFork(context: SnapshotContext, record: SnapshotRecord): ForkUnderWay | undefined {
  const { instances } = context
  if (!canBeSpare(instances, record.instance) || context.compressor.statusOf(record.id) !== undefined) return undefined
  return instances.spares?.begin(record.id, async () => {
    using _hold = await holdSnapshot(context, record, true)
    if (context.store.byId(record.id) === undefined) throw new HypemanError('not_found', `the snapshot ${record.id} is gone`)
    const payload = await payloadOf(context, record)
    await checkSnapshot(context, record, true)
    return await makeSpare(instances, { payload, record: record.instance })
  })
}

/** Refuses what could only fail later: a hypervisor that can't run what is in the snapshot, a memory image of another version. */
export async function checkTarget(context: SnapshotContext, record: SnapshotRecord, target: Target): Promise<void> {
  const driver = driverOf(context.instances, target)
  const stamp = record.kind === 'Standby' && target.state !== 'Stopped' ? record.instance.stamp : null
  await demandFit(context.instances, driver, record.instance, stamp?.version)
  if (stamp === null) return
  const here = await driver.stamp(stamp.version)
  if (here.version === stamp.version && here.machineType === stamp.machineType && here.accelerator === stamp.accelerator) return
  throw new HypemanError(
    'incompatible_version',
    `the memory of snapshot ${record.id} was written by ${stampWords(stamp)}, here is ${stampWords(here)}; use target_state Stopped to start from its disks`,
  )
}
