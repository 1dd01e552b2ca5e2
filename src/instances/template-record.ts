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
    overlayBytes: z.int().positive(),
    hasNetwork: z.boolean(),
    stamp: versionStamp,
  })
  .readonly()

export type TemplateKind = z.infer<typeof templateKind>

const templateRecord = z
  .object({ version: z.literal(1), createdAt: timestamp, kind: templateKind, seals: z.array(fileSeal).readonly() })
  .readonly()

export const templateFormat = defineRecord({ kind: 'template record', version: 1, schema: templateRecord })

export type TemplateRecord = z.infer<typeof templateRecord>

/** Names the template of a kind, in its directory's name. */
export function keyOf(kind: TemplateKind): string {
  const { hypervisor, imageDigest, kernelId, vcpus, memoryBytes, overlayBytes, hasNetwork, stamp } = kind
  const parts = [hypervisor, imageDigest, kernelId, vcpus, memoryBytes, overlayBytes, hasNetwork]
  return createHash('sha256')
    .update(JSON.stringify([...parts, stamp.hypervisor, stamp.version, stamp.machineType, stamp.accelerator]))
    .digest('hex')
}
