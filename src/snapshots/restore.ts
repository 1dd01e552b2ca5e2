// Flow: restore in place. The instance keeps its id, name and network identity and takes everything else from the snapshot, all or nothing.

import { HypemanError } from '../api/errors.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import {
  claimVolumes,
  driverOf,
  fillFromPayload,
  lockInstance,
  noRestarts,
  permit,
  reachState,
  replaceInstance,
  reserveFor,
  restoredNetwork,
  sealMemory,
  standbyCompressionOf,
  type InstanceEntry,
  type InstanceRecord,
} from '../instances/index.ts'
import { step, together } from '../platform/flow.ts'
import { checkSnapshot } from './check.ts'
import { holdSnapshot, payloadOf, snapshotFlow, type SnapshotContext } from './context.ts'
import { checkTarget } from './fork.ts'
import type { SnapshotRecord } from './record.ts'
import { targetOf, type Target, type TargetRequest } from './target.ts'

export async function restoreSnapshot(
  context: SnapshotContext,
  entry: InstanceEntry,
  record: SnapshotRecord,
  request: TargetRequest,
): Promise<void> {
  if (record.sourceInstanceId !== entry.id)
    throw new HypemanError(
      'invalid_request',
      `the snapshot ${record.id} belongs to the instance ${record.sourceInstanceName} (${record.sourceInstanceId}), not to ${entry.record.name}; fork it instead`,
    )
  const { instances } = context
  const target = targetOf(record, request)
  await checkTarget(context, record, target)
  using _lock = await lockInstance(instances, entry)
  using _hold = await holdSnapshot(context, record, true)
  if (context.store.byId(record.id) === undefined) throw new HypemanError('not_found', `the snapshot ${record.id} is gone`)
  await permit(entry, 'restoreSnapshot')
  using _share = reserveFor(instances, { ...record.instance, id: entry.id, name: entry.record.name }, target.state === 'Running')
  using _volumes = await claimVolumes(instances, record.instance.volumes, entry)

  using flow = snapshotFlow(context, entry.id, 'snapshot.restore', record.id)
  const withMemory = record.kind === 'Standby' && target.state !== 'Stopped'
  const payload = await payloadOf(context, record)
  const prepared = withMemory ? await context.compressor.makeReady(record, flow) : undefined
  if (prepared !== undefined) flow.onStep(prepared)
  await replaceInstance(instances, entry, flow, {
    fill: async (directory) => {
      const from = { payload, hypervisor: record.instance.hypervisor, withMemory }
      const made = fillFromPayload(instances, flow, from, target.hypervisor, directory)
      await together([step(flow, 'check', () => checkSnapshot(context, record, withMemory)), made])
      const asleep = withMemory && target.state === 'Standby'
      const savedMemory = asleep ? await sealMemory(instances, target, directory) : null
      const restored = restoredRecord(driverOf(instances, target), entry.record, record, target, withMemory)
      const standbyCompression = asleep
        ? standbyCompressionOf(restored.snapshotPolicy, context.instances.settings.compression, {}, Date.now())
        : null
      return { ...restored, savedMemory, standbyCompression }
    },
    holdsMemory: withMemory,
    reach: () => reachState(instances, entry, target.state, flow),
  })
}

/** The snapshot's record under the instance's own identity. */
function restoredRecord(
  driver: Hypervisor,
  present: InstanceRecord,
  snapshot: SnapshotRecord,
  target: Target,
  withMemory: boolean,
): InstanceRecord {
  const { instance } = snapshot
  return {
    ...instance,
    id: present.id,
    name: present.name,
    createdAt: present.createdAt,
    hypervisor: target.hypervisor,
    stamp: target.hypervisor === instance.hypervisor ? instance.stamp : null,
    machineId: present.machineId,
    network: restoredNetwork(driver, instance.network, present.network),
    generation: Math.max(present.generation, instance.generation),
    forkedFrom: present.forkedFrom,
    expiresAt: present.expiresAt,
    process: null,
    stoppedAt: withMemory ? instance.stoppedAt : (present.stoppedAt ?? new Date().toISOString()),
    programStartedAt: withMemory ? instance.programStartedAt : null,
    agentReadyAt: withMemory ? instance.agentReadyAt : null,
    identityDue: withMemory ? instance.identityDue : null,
    unsafeFork: null,
    balloon: withMemory ? instance.balloon : null,
    runningSince: null,
    restarts: noRestarts,
    phases: present.phases,
    exit: null,
    standbyCompression: null,
    restoring: null,
  }
}
