// Writes the JSON schema of the present version of every record on disk beside its sample (tests/samples/records), where there is none yet.
// One that is there is never written over: a record that changes gets a new version, a step that leads there, and a sample (docs/on-disk-layout.md).

import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { embeddedRecords, type RecordFormat } from '../src/files/record-format.ts'
import { keyRingFormat } from '../src/files/key-ring.ts'
import { manifestFormat as firecrackerManifestFormat } from '../src/hypervisors/firecracker/memory.ts'
import { savedMachineFormat } from '../src/hypervisors/cloud-hypervisor/images.ts'
import { manifestFormat } from '../src/hypervisors/qemu/memory.ts'
import { vzManifestFormat } from '../src/hypervisors/vz/image.ts'
import { imageFormat, referenceFormat } from '../src/images/records.ts'
import { instanceFormat } from '../src/instances/record.ts'
import { journalFormat } from '../src/instances/replace.ts'
import { templateFormat } from '../src/instances/template-record.ts'
import { pushFormat } from '../src/pushes/record.ts'
import { repositoryFormat } from '../src/registry/repositories.ts'
import { scheduleFormat } from '../src/schedules/record.ts'
import { compressionFormat } from '../src/snapshots/compression-record.ts'
import { snapshotFormat } from '../src/snapshots/record.ts'
import { sealsFormat } from '../src/snapshots/seals.ts'
import { volumeFormat } from '../src/volumes/record.ts'

export const recordFormats: readonly RecordFormat<unknown>[] = [
  instanceFormat,
  journalFormat,
  snapshotFormat,
  sealsFormat,
  compressionFormat,
  imageFormat,
  referenceFormat,
  volumeFormat,
  repositoryFormat,
  manifestFormat,
  vzManifestFormat,
  firecrackerManifestFormat,
  savedMachineFormat,
  templateFormat,
  scheduleFormat,
  pushFormat,
  keyRingFormat,
]

/** Directory of a format's samples (`v1.json`) and schemas (`v1.schema.json`). */
export function samplesOf(format: RecordFormat<unknown>): string {
  return path.join(import.meta.dirname, '..', 'tests', 'samples', 'records', format.kind.replaceAll(' ', '-'))
}

/** Without the schemas of records that lie in it, which have versions of their own. */
export function schemaOf(format: RecordFormat<unknown>): object {
  const { $defs: _embedded, ...own } = z.toJSONSchema(format.schema, {
    metadata: embeddedRecords,
    // How zod spells a known format is no part of ours.
    override: ({ jsonSchema }) => {
      if (jsonSchema.format !== undefined) delete jsonSchema.pattern
    },
  })
  return own
}

if (import.meta.main)
  for (const format of recordFormats) {
    const file = path.join(samplesOf(format), `v${format.version}.schema.json`)
    if (existsSync(file)) continue
    await mkdir(path.dirname(file), { recursive: true })
    await writeFile(file, `${JSON.stringify(schemaOf(format), null, 2)}\n`)
    console.log(file)
  }
