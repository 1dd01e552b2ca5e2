// What may be asked of snapshots: find, then run the flow, then show. Locks and rules are the flows' own.

import type { SnapshotView } from '../api/schemas/snapshot.ts'
import { viewOf } from '../instances/index.ts'
import { captureSnapshot } from './capture.ts'
import type { SnapshotContext } from './context.ts'
import { forkSnapshot } from './fork.ts'
import type { SnapshotRecord } from './record.ts'
import { removeSnapshot, removeUnreadable } from './remove.ts'
import { restoreSnapshot } from './restore.ts'
import type { SnapshotService } from './types.ts'
import { verifyAll, verifySnapshot } from './verify.ts'

/** `removed` is told after a snapshot is gone, for what nobody else needs then. */
export function createSnapshotService(context: SnapshotContext, removed: () => void): SnapshotService {
  const { instances, store } = context
  return {
    async create(instanceRef, { kind, name = '', tags = {} }) {
      return snapshotViewOf(await captureSnapshot(context, instances.store.find(instanceRef), { kind, name, tags, scheduled: false }))
    },
    async list(filter) {
      const { source_instance_id: sourceInstanceId, kind, name, tags } = filter
      return store.list({ sourceInstanceId, kind, name, tags }).map(snapshotViewOf)
    },
    get: async (id) => snapshotViewOf(store.find(id)),
    async remove(id) {
      if (!(await removeUnreadable(context, id))) await removeSnapshot(context, store.find(id))
      removed()
    },
    async restore(instanceRef, id, body) {
      const entry = instances.store.find(instanceRef)
      await restoreSnapshot(context, entry, store.find(id), targetOf(body))
      return viewOf(entry)
    },
    async *verify(id, signal) {
      yield* verifySnapshot(context, store.unreadable.has(id) ? id : store.find(id).id, signal)
    },
    verifyAll: (signal) => verifyAll(context, signal),
    async fork(id, body) {
      return viewOf(await forkSnapshot(context, store.find(id), { name: body.name, ...targetOf(body) }))
    },
  }
}

function targetOf(
  body: Parameters<SnapshotService['restore']>[2],
): Pick<Parameters<typeof restoreSnapshot>[3], 'targetState' | 'targetHypervisor'> {
  return { targetState: body.target_state, targetHypervisor: body.target_hypervisor }
}

/** Made once for each record, which never changes: a list of 10 000 would leave as many objects behind each time. */
const views = new WeakMap<SnapshotRecord, SnapshotView>()

function snapshotViewOf(record: SnapshotRecord): SnapshotView {
  const known = views.get(record)
  if (known !== undefined) return known
  const view = makeView(record)
  views.set(record, view)
  return view
}

function makeView(record: SnapshotRecord): SnapshotView {
  return {
    id: record.id,
    ...(record.name === '' ? {} : { name: record.name }),
    kind: record.kind,
    created_at: record.createdAt,
    size_bytes: record.sizeBytes,
    allocated_bytes: record.allocatedBytes,
    paused_ms: Math.round(record.pausedMs * 100) / 100,
    source_instance_id: record.sourceInstanceId,
    source_instance_name: record.sourceInstanceName,
    source_hypervisor: record.sourceHypervisor,
    ...(record.scheduled ? { scheduled: true } : {}),
    ...(Object.keys(record.tags).length === 0 ? {} : { tags: { ...record.tags } }),
    compression_state: 'none',
  }
}
