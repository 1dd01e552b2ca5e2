// Flow: take a snapshot. Everything is staged and made durable, then one rename makes it exist; the source runs again in any case.

import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import type { TargetState } from '../api/actions.ts'
import { snapshotFiles } from '../files/layout.ts'
import { createStaged, moveToTrash, stageRecord } from '../files/stage.ts'
import { treeSize } from '../files/tree.ts'
import {
  checkMemory,
  driverOf,
  forbidWritableVolumes,
  liveMachine,
  lockInstance,
  memoryOf,
  permit,
  proveAgent,
  specOf,
  type InstanceEntry,
} from '../instances/index.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import { newId } from '../platform/ids.ts'
import { snapshotFlow, type SnapshotContext } from './context.ts'
import type { SnapshotRecord } from './record.ts'
import { sealSnapshot } from './seals.ts'

export interface CaptureRequest {
  readonly kind: 'Standby' | 'Stopped'
  readonly name: string
  readonly tags: Readonly<Record<string, string>>
}

export async function captureSnapshot(context: SnapshotContext, entry: InstanceEntry, request: CaptureRequest): Promise<SnapshotRecord> {
  const { instances } = context
  const id = newId()
  using _lock = await lockInstance(instances, entry)
  const flow = snapshotFlow(context, entry.id, 'snapshot.create')
  forbidWritableVolumes(entry.record, 'a snapshot')
  const state = await permit(entry, request.kind === 'Standby' ? 'snapshotStandby' : 'snapshotStopped', 'conflict')
  using _name = context.store.reserveName(entry.id, request.name, id)

  await using undo = new AsyncDisposableStack()
  const staged = await step(flow, 'stage', async () => {
    const made = undo.use(await createStaged(instances.layout, `snapshot-${id}`))
    await mkdir(path.join(made.path, snapshotFiles.payload))
    return made
  })
  const payload = path.join(staged.path, snapshotFiles.payload)
  const pausedMs = await fillPayload(context, entry, state, payload, flow)
  const record: SnapshotRecord = {
    version: 1,
    id,
    name: request.name,
    kind: request.kind,
    tags: request.tags,
    sourceInstanceId: entry.id,
    sourceInstanceName: entry.record.name,
    sourceHypervisor: entry.record.hypervisor,
    createdAt: new Date().toISOString(),
    ...(await treeSize(payload)),
    pausedMs,
    instance: { ...entry.record, process: null, restoring: null, savedMemory: null },
  }
  await step(flow, 'record', () => stageRecord(path.join(staged.path, snapshotFiles.record), record))
  const seals = await step(flow, 'seal', () => sealSnapshot(staged.path, id, driverOf(instances, entry.record), instances.digests))
  undo.defer(() => moveToTrash(instances.layout, instances.layout.snapshot(id)))
  await step(flow, 'commit', () => staged.commit(instances.layout.snapshot(id)))
  context.store.add(record)
  undo.move()
  context.keeper.add(id, seals)
  return record
}

/** Fills the payload and returns how long the source stood still, in milliseconds. */
async function fillPayload(
  context: SnapshotContext,
  entry: InstanceEntry,
  state: TargetState,
  payload: string,
  flow: FlowContext,
): Promise<number> {
  const { instances } = context
  const { record } = entry
  if (state !== 'Running') {
    if (state === 'Standby') await step(flow, 'check', () => checkMemory(instances, record))
    await step(flow, 'share', () => driverOf(instances, record).share(instances.layout.instance(entry.id), payload, state === 'Standby'))
    return 0
  }
  const machine = liveMachine(entry)
  const memory = memoryOf(instances, record)
  await step(flow, 'prove-agent', () => proveAgent(instances, entry, flow.signal))
  const report = await step(flow, 'capture', () => memory.capture(machine, specOf(instances, record), payload, flow.signal))
  flow.onStep({ flow: flow.flow, step: 'source-paused', ms: report.pausedMs, note: report.note })
  // The snapshot is whole all the same; that its source stands still is told where people look for it.
  if (report.notResumed !== undefined) flow.onStep({ flow: flow.flow, step: 'resume', ms: 0, error: report.notResumed })
  return report.pausedMs
}
