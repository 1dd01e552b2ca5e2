// The door of volumes: disks that outlive instances.

import { Volumes, type VolumeServiceOptions } from './service.ts'

export type { VolumeServiceOptions }

/** Reads the volumes on disk, and serves. */
export async function createVolumeService(options: VolumeServiceOptions): Promise<Volumes> {
  const volumes = new Volumes(options)
  await volumes.open()
  return volumes
}
