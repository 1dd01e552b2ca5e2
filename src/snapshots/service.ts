// What may be asked of snapshots: find, then run the flow, then show. Locks and rules are the flows' own.

import { HypemanError } from '../api/errors.ts'
import type { CreateSnapshotBody, SnapshotView } from '../api/schemas/snapshot.ts'
import { environmentOf, settingOf, viewOf } from '../instances/index.ts'
import { captureSnapshot, type CaptureRequest } from './capture.ts'
import type { CompressionStatus } from './compression-status.ts'
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
    async create(instanceRef, { kind, name = '', tags = {}, compression }, by) {
      const request = { kind, name, tags, owner: by, scheduled: false, compression: compressionOf(kind, compression) }
      return snapshotViewOf(context, await captureSnapshot(context, instances.store.find(instanceRef), request))
    },
    async list(filter) {
      const { source_instance_id: sourceInstanceId, kind, name, tags } = filter
      return store.list({ sourceInstanceId, kind, name, tags }).map((record) => snapshotViewOf(context, record))
    },
    get: async (id) => snapshotViewOf(context, store.find(id)),
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
    async fork(id, body, by) {
      const request = { name: body.name, owner: by, environment: environmentOf(body), ...targetOf(body) }
      return viewOf(await forkSnapshot(context, store.find(id), request))
    },
  }
}

function targetOf(
  body: Parameters<SnapshotService['restore']>[2],
): Pick<Parameters<typeof restoreSnapshot>[3], 'targetState' | 'targetHypervisor'> {
  return { targetState: body.target_state, targetHypervisor: body.target_hypervisor }
}

/** What is asked of a snapshot's compression; what is not said is its instance's to say. */
function compressionOf(kind: SnapshotRecord['kind'], asked: CreateSnapshotBody['compression']): CaptureRequest['compression'] {
  if (kind === 'Stopped' && asked?.enabled === true)
    throw new HypemanError('invalid_request', 'compression: a Stopped snapshot holds no memory to compress; leave the field out')
  return asked === undefined ? 'by policy' : settingOf(asked)
}

/** Made once for each record, which is another object when something has changed: a list of 10 000 would leave as many objects behind each time. */
const views = new WeakMap<SnapshotRecord, SnapshotView>()

function snapshotViewOf({ compressor }: SnapshotContext, record: SnapshotRecord): SnapshotView {
  const known = views.get(record)
  if (known !== undefined) return known
  const view = makeView(record, compressor.statusOf(record.id))
  views.set(record, view)
  return view
}

function makeView(record: SnapshotRecord, compression: CompressionStatus | undefined): SnapshotView {
  return {
    id: record.id,
    ...(record.name === '' ? {} : { name: record.name }),
    kind: record.kind,
    created_at: record.createdAt,
    size_bytes: record.sizeBytes + (compression?.sizeChange ?? 0),
    allocated_bytes: Math.max(record.allocatedBytes + (compression?.allocatedChange ?? 0), 0),
    paused_ms: Math.round(record.pausedMs * 100) / 100,
    source_instance_id: record.sourceInstanceId,
    source_instance_name: record.sourceInstanceName,
    source_hypervisor: record.sourceHypervisor,
    ...(record.owner === null ? {} : { owner: record.owner }),
    ...(record.scheduled ? { scheduled: true } : {}),
    ...(Object.keys(record.tags).length === 0 ? {} : { tags: { ...record.tags } }),
    ...compressionViewOf(compression),
  }
}

function compressionViewOf(compression: CompressionStatus | undefined): Partial<SnapshotView> {
  if (compression === undefined) return { compression_state: 'none' }
  const { state, setting, error, note, compressedBytes, uncompressedBytes } = compression
  return {
    compression: { enabled: true, ...setting },
    compression_state: state,
    ...(state === 'error' && error !== undefined ? { compression_error: error } : {}),
    ...(note === undefined ? {} : { compression_note: note }),
    ...(compressedBytes === 0 ? {} : { compressed_size_bytes: compressedBytes, uncompressed_size_bytes: uncompressedBytes }),
  }
}
