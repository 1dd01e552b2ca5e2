// A volume's record on disk (`volume.json`). Written once; what attaches the volume is known by the instances' own records.

import { z } from 'zod'
import { tags, timestamp } from '../api/schemas/common.ts'
import type { VolumeView } from '../api/schemas/volume.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'
import type { VolumeAttachment } from './types.ts'

/** Bytes of the wire's `size_gb`: 1024-based, as all sizes. */
export const GIB = 1024 ** 3

const volumeRecord = z
  .object({
    version: z.literal(1),
    id: fileWord,
    name: z.string(),
    sizeGib: z.int().positive(),
    createdAt: timestamp,
    tags: tags.readonly(),
  })
  .readonly()

export const volumeFormat = defineRecord({ kind: 'volume record', version: 1, schema: volumeRecord })

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
