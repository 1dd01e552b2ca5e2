// Who uses an image or a volume: instances, and snapshots that would need it again.

import type { InstanceStore } from '../instances/index.ts'
import type { SnapshotStore } from './store.ts'

export function isImageUsed(instances: InstanceStore, snapshots: SnapshotStore, digest: string): boolean {
  return (
    instances.entries().some(({ record }) => record.image.digest === digest) ||
    snapshots.list().some(({ instance }) => instance.image.digest === digest)
  )
}

export function snapshotsUsing(snapshots: SnapshotStore, volumeId: string): string[] {
  return snapshots.list().flatMap(({ id, instance }) => (instance.volumes.some((volume) => volume.volumeId === volumeId) ? [id] : []))
}
