// Flow: take a snapshot. Everything is staged and made durable, then one rename makes it exist; the source runs again in any case.

import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { isLegal, type TargetState } from '../api/actions.ts'
import { HypemanError } from '../api/errors.ts'
import type { CompressionSetting } from '../files/compression.ts'
import { snapshotFiles } from '../files/layout.ts'
import { createStaged, moveToTrash, stageRecord } from '../files/stage.ts'
import { treeSize } from '../files/tree.ts'
import {
  captureMemory,
  demandMemory,
  driverOf,
  forbidWritableVolumes,
  lockInstance,
  permit,
  policySetting,
  proveAgent,
  type InstanceEntry,
} from '../instances/index.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import { newId } from '../platform/ids.ts'
import { compressionRecordOf } from './compression-record.ts'
import { snapshotFlow, type SnapshotContext } from './context.ts'
import type { SnapshotRecord } from './record.ts'
import { sealSnapshot } from './seals.ts'

export interface CaptureRequest {
  /** `by state`: with memory of an instance that has any, without of a Stopped one. */
  readonly kind: SnapshotRecord['kind'] | 'by state'
  readonly name: string
  readonly tags: Readonly<Record<string, string>>
  /** Who asks; null: not known. */
  readonly owner: string | null
  /** The source's schedule asks for it. */
  readonly scheduled: boolean
  /** How its memory is compressed afterwards; absent: not at all. */
  readonly compression?: CompressionSetting | 'by policy' | undefined
}

export async function captureSnapshot(context: SnapshotContext, entry: InstanceEntry, request: CaptureRequest): Promise<SnapshotRecord> {
  const { instances } = context
  const id = newId()
  using _lock = await lockInstance(instances, entry)
  using flow = snapshotFlow(context, entry.id, 'snapshot.create', id)
  forbidWritableVolumes(entry.record, 'a snapshot')
  const { kind, state } = await permitKind(entry, request.kind)
  const setting =
    request.compression === 'by policy' ? policySetting(entry.record.snapshotPolicy, instances.settings.compression) : request.compression
  const compression = setting === undefined || kind === 'Stopped' ? undefined : compressionRecordOf(id, setting)
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
    version: 3,
    id,
    name: request.name,
    kind,
    tags: request.tags,
    owner: request.owner,
    scheduled: request.scheduled,
    sourceInstanceId: entry.id,
    sourceInstanceName: entry.record.name,
    sourceHypervisor: entry.record.hypervisor,
    createdAt: new Date().toISOString(),
    ...(await treeSize(payload)),
    pausedMs,
    instance: { ...entry.record, process: null, restoring: null, savedMemory: null, standbyCompression: null },
  }
  await step(flow, 'record', async () => {
    await stageRecord(path.join(staged.path, snapshotFiles.record), record)
    if (compression !== undefined) await stageRecord(path.join(staged.path, snapshotFiles.compression), compression)
  })
  const seals = await step(flow, 'seal', () => sealSnapshot(staged.path, id, driverOf(instances, entry.record), instances.digests))
  undo.defer(() => moveToTrash(instances.layout, instances.layout.snapshot(id)))
  await step(flow, 'commit', () => staged.commit(instances.layout.snapshot(id)))
  context.store.add(record)
  undo.move()
  context.keeper.add(id, seals)
  if (compression !== undefined) context.compressor.add(compression)
  return context.store.byId(id) ?? record
}

/** The kind that is taken, and the state of its source, which the caller has locked; throws when the one is not legal in the other. */
async function permitKind(
  entry: InstanceEntry,
  wanted: CaptureRequest['kind'],
): Promise<{ readonly kind: SnapshotRecord['kind']; readonly state: TargetState }> {
  if (wanted !== 'by state') {
    const state = await permit(entry, wanted === 'Standby' ? 'snapshotStandby' : 'snapshotStopped', 'conflict')
    return { kind: wanted, state }
  }
  const { state } = await entry.observePatiently()
  if (isLegal('snapshotStopped', state)) return { kind: 'Stopped', state }
  if (isLegal('snapshotStandby', state)) return { kind: 'Standby', state }
  throw new HypemanError(
    'invalid_state',
    `${entry.record.name} is ${state}; a scheduled snapshot is taken of a Running, Standby or Stopped instance alone`,
  )
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
    if (state === 'Standby') await demandMemory(instances, entry, flow)
    await step(flow, 'share', () => driverOf(instances, record).share(instances.layout.instance(entry.id), payload, state === 'Standby'))
    return 0
  }
  await step(flow, 'prove-agent', () => proveAgent(instances, entry, flow.signal))
  return (await captureMemory(instances, entry, flow, payload)).pausedMs
}
