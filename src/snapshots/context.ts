// What the flows of snapshots work with, made once by the composition root.

import { accessSync } from 'node:fs'
import path from 'node:path'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { snapshotFiles } from '../files/layout.ts'
import { isMissing, refuseForeignFiles } from '../files/tree.ts'
import type { OpenFlow } from '../platform/flow.ts'
import type { KeyedLock } from '../platform/keyed-lock.ts'
import { flowOn, type InstanceContext } from '../instances/index.ts'
import type { Compressor } from './compressor.ts'
import type { SealKeeper } from './keeper.ts'
import type { SnapshotRecord } from './record.ts'
import type { SnapshotStore } from './store.ts'

export interface SnapshotContext {
  readonly instances: InstanceContext
  readonly store: SnapshotStore
  /** Readers (restore, fork) hold off a delete. */
  readonly locks: KeyedLock
  readonly keeper: SealKeeper
  readonly compressor: Compressor
}

/** A snapshot's flow reports its steps to the instance it is about. */
export function snapshotFlow(
  { instances }: Pick<SnapshotContext, 'instances'>,
  instanceId: string,
  flow: string,
  snapshotId: string,
  signal: AbortSignal = instances.stopping,
): OpenFlow {
  return flowOn(instances, instanceId, flow, { signal, about: { snapshotId } })
}

/** Keeps a snapshot from being deleted while it is read. */
export function holdSnapshot(
  context: Pick<SnapshotContext, 'instances' | 'locks'>,
  record: SnapshotRecord,
  shared: boolean,
  waitMs: number = context.instances.settings.lockWaitMs,
): Promise<Disposable> {
  return context.locks.acquire(record.id, { waitMs, what: `snapshot ${record.id}`, shared })
}

/** A snapshot's payload, for a flow that holds it; `corrupt_snapshot` if it is missing, or a file of the snapshot leads out of the data directory. */
export async function payloadOf({ instances }: SnapshotContext, record: SnapshotRecord): Promise<string> {
  const directory = instances.layout.snapshot(record.id)
  const payload = path.join(directory, snapshotFiles.payload)
  try {
    refuseForeignFiles(directory) // the payload's, too
    accessSync(payload)
  } catch (cause) {
    if (isHypemanError(cause, 'conflict')) throw new HypemanError('corrupt_snapshot', cause.message, { cause })
    if (!isMissing(cause)) throw cause
    throw new HypemanError('corrupt_snapshot', `${payload} is missing; put it back, or delete what it belongs to`, { cause })
  }
  return payload
}
