// What may be asked of volumes: by the routes in the words of the wire, and by instances that attach them.

import type { Readable } from 'node:stream'
import type { Tags } from '../api/schemas/common.ts'
import type { CreateVolumeBody, VolumeView } from '../api/schemas/volume.ts'

/** `ref` is an id or a name. */
export interface VolumeService {
  create(body: CreateVolumeBody): Promise<VolumeView>
  /** The archive is a tar, plain or compressed with gzip. It is destroyed when it was not read to its end. */
  createFromArchive(body: CreateVolumeBody, archive: Readable): Promise<VolumeView>
  list(filter: { readonly tags?: Tags | undefined }): Promise<VolumeView[]>
  get(ref: string): Promise<VolumeView>
  remove(ref: string): Promise<void>
}

/** What instances need to know of volumes. */
export interface VolumeSource {
  /** Id of a volume given by id or name; `not_found` otherwise. */
  resolve(ref: string): string
  /** Absolute path of the volume's raw image; `not_found` when it is gone. */
  imagePath(id: string): string
  /** False when it is gone, or can't be used. */
  isThere(id: string): boolean
  /** Ids of the snapshots that need the volume as it is. */
  snapshotsUsing(id: string): readonly string[]
  /** Until disposed the volume is not deleted: for an instance in the making, which `attachmentsOf` does not tell of yet. */
  hold(id: string): Disposable
}

export interface VolumeAttachment {
  readonly instanceId: string
  readonly mountPath: string
  readonly readOnly: boolean
}
