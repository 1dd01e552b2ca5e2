// What is kept of an image on disk: one record beside each root file system, one for each reference.

import { z } from 'zod'
import { tags } from '../api/schemas/common.ts'
import { defineRecord } from '../files/record-format.ts'
import { isDigest } from './reference.ts'

const digest = z.string().refine(isDigest, 'not a sha256 digest')
const words = z.array(z.string()).readonly()
const texts = z.record(z.string(), z.string()).readonly()

/** `image.json` of an image's directory. Never changed once it is there. */
const imageRecord = z
  .object({
    version: z.literal(1),
    digest,
    platform: z.string(),
    /** Of the root file system, bytes. */
    sizeBytes: z.int().min(0),
    createdAt: z.iso.datetime(),
    config: z
      .object({
        entrypoint: words,
        cmd: words,
        env: texts,
        workingDir: z.string(),
        user: z.string(),
        stopSignal: z.string(),
        labels: texts,
        exposedPorts: words,
      })
      .readonly(),
  })
  .readonly()

export const imageFormat = defineRecord({ kind: 'image record', version: 1, schema: imageRecord })

export type ImageRecord = z.infer<typeof imageRecord>

const referenceRecord = z
  .object({
    version: z.literal(1),
    /** In normal form. */
    name: z.string().min(1),
    digest,
    /** `local`: made here by a push, an import or a tag, so a pull of it asks no registry. */
    origin: z.enum(['registry', 'local']),
    createdAt: z.iso.datetime(),
    tags: tags.readonly(),
    /** Further normal forms that find it. */
    aliases: words,
  })
  .readonly()

export const referenceFormat = defineRecord({ kind: 'image reference', version: 1, schema: referenceRecord })

export type ReferenceRecord = z.infer<typeof referenceRecord>
