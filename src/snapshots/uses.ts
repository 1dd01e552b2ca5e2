// Who uses an image or a volume: instances, and snapshots that would need it again.

import { readFileSync } from 'node:fs'
import path from 'node:path'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import { instanceFiles, snapshotFiles } from '../files/layout.ts'
import { isMissing } from '../files/tree.ts'
import type { InstanceStore } from '../instances/index.ts'
import type { SnapshotStore } from './store.ts'

export function isImageUsed(instances: InstanceStore, snapshots: SnapshotStore, digest: string): boolean {
  return (
    instances.entries().some(({ record }) => record.image.digest === digest) ||
    snapshots.list().some(({ instance }) => instance.image.digest === digest)
  )
}

/** Of the directories of things that can't be read, those whose record names a volume: it is to be there, as it was, when they can be read again. */
export function unreadableUsing(unreadable: Iterable<Pick<Unreadable, 'path'>>, volumeId: string): string[] {
  const names = (directory: string): boolean =>
    [instanceFiles.record, snapshotFiles.record].some((file) => {
      try {
        return readFileSync(path.join(directory, file), 'utf8').includes(volumeId)
      } catch (error) {
        // Without a record nothing says that it uses it; one that can't be read may.
        return !isMissing(error) && !(error instanceof Error && 'code' in error && error.code === 'ENOTDIR')
      }
    })
  return [...unreadable]
    .filter(({ path: directory }) => names(directory))
    .map(({ path: directory }) => `${path.basename(directory)}, which can't be read`)
}

/** What needs a volume as it is, beside the instances that attach it: snapshots, and whatever can't be read. In words for a refusal. */
export function readersOf(instances: InstanceStore, snapshots: SnapshotStore, volumeId: string): string[] {
  const held = snapshots.list().flatMap(({ id, instance }) => (instance.volumes.some((volume) => volume.volumeId === volumeId) ? [id] : []))
  return [...held, ...unreadableUsing([...instances.unreadable(), ...snapshots.unreadable.values()], volumeId)]
}
