// A template's record on disk (`template.json`): what it was made for, and the seals of its files. Written once.

import { createHash } from 'node:crypto'
import { z } from 'zod'
import { hypervisorName, timestamp } from '../api/schemas/common.ts'
import { defineRecord, fileWord } from '../files/record-format.ts'
import { fileSeal } from '../files/seals.ts'
import { versionStamp } from './record.ts'

/** Guests of one kind are equal until they are configured. Sizes in bytes. */
const templateKind = z
  .object({
    hypervisor: hypervisorName,
    imageDigest: z.string(),
    kernelId: fileWord,
    vcpus: z.int().positive(),
    memoryBytes: z.int().positive(),
    /** What may be added to that while it runs. */
    hotplugBytes: z.int().nonnegative(),
    overlayBytes: z.int().positive(),
    hasNetwork: z.boolean(),
    stamp: versionStamp,
  })
  .readonly()

export type TemplateKind = z.infer<typeof templateKind>

const templateRecord = z
  .object({ version: z.literal(2), createdAt: timestamp, kind: templateKind, seals: z.array(fileSeal).readonly() })
  .readonly()

export const templateFormat = defineRecord({
  kind: 'template record',
  version: 2,
  schema: templateRecord,
  steps: {
    // Until then none was made for machines that may be given more.
    1: (record) => ({ ...record, kind: { ...z.record(z.string(), z.unknown()).parse(record['kind']), hotplugBytes: 0 } }),
  },
})

export type TemplateRecord = z.infer<typeof templateRecord>

/** Names the template of a kind, in its directory's name. */
export function keyOf(kind: TemplateKind): string {
  const { hypervisor, imageDigest, kernelId, vcpus, memoryBytes, hotplugBytes, overlayBytes, hasNetwork, stamp } = kind
  const parts = [
    hypervisor,
    imageDigest,
    kernelId,
    vcpus,
    memoryBytes,
    overlayBytes,
    hasNetwork,
    ...(hotplugBytes === 0 ? [] : [hotplugBytes]),
  ]
  return createHash('sha256')
    .update(JSON.stringify([...parts, stamp.hypervisor, stamp.version, stamp.machineType, stamp.accelerator]))
    .digest('hex')
}
