// Who uses an image or a volume: instances, and snapshots that would need it again.

import type { InstanceStore } from '../instances/index.ts'
import type { SnapshotStore } from './store.ts'

export function isImageUsed(instances: InstanceStore, snapshots: SnapshotStore, digest: string): boolean {
  return (
    instances.entries().some(({ record }) => record.image.digest === digest) ||
    snapshots.list().some(({ instance }) => instance.image.digest === digest)
  )
}

export function attachmentsOf(instances: InstanceStore, volumeId: string): { instanceId: string; mountPath: string; readOnly: boolean }[] {
  return [...instances.entries()].flatMap(({ record }) =>
    record.volumes
      .filter((volume) => volume.volumeId === volumeId)
      .map(({ mountPath, readOnly }) => ({ instanceId: record.id, mountPath, readOnly })),
  )
}

export function snapshotsUsing(snapshots: SnapshotStore, volumeId: string): string[] {
  return snapshots.list().flatMap(({ id, instance }) => (instance.volumes.some((volume) => volume.volumeId === volumeId) ? [id] : []))
}
