// A volume's record on disk (`volume.json`). Written once; what attaches the volume is known by the instances' own records.

import { z } from 'zod'
import type { VolumeView } from '../api/schemas/volume.ts'
import type { VolumeAttachment } from './types.ts'

/** Bytes of the wire's `size_gb`: 1024-based, as all sizes. */
export const GIB = 1024 ** 3

export const volumeRecord = z
  .object({
    version: z.literal(1),
    id: z.string(),
    name: z.string(),
    sizeGib: z.int().positive(),
    createdAt: z.string(),
    tags: z.record(z.string(), z.string()).readonly(),
  })
  .readonly()

export type VolumeRecord = z.infer<typeof volumeRecord>

/** The volume as the wire shows it; what is empty is left out. */
export function viewOf(record: VolumeRecord, attachments: readonly VolumeAttachment[]): VolumeView {
  return {
    id: record.id,
    name: record.name,
    size_gb: record.sizeGib,
    created_at: record.createdAt,
    ...(attachments.length === 0
      ? {}
      : {
          attachments: attachments.map(({ instanceId, mountPath, readOnly }) => ({
            instance_id: instanceId,
            mount_path: mountPath,
            readonly: readOnly,
          })),
        }),
    ...(Object.keys(record.tags).length === 0 ? {} : { tags: { ...record.tags } }),
  }
}
