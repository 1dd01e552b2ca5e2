// Things put into a data directory by hand, as a person with a copy or an editor would, while no server runs.

import { mkdir } from 'node:fs/promises'
import path from 'node:path'
import { Digests } from '../../src/files/digests.ts'
import { instanceFiles, snapshotFiles, type DataLayout } from '../../src/files/layout.ts'
import { stageRecord } from '../../src/files/stage.ts'
import { createQemuDriver } from '../../src/hypervisors/qemu/index.ts'
import type { InstanceRecord } from '../../src/instances/index.ts'
import { newId } from '../../src/platform/ids.ts'
import { sealSnapshot } from '../../src/snapshots/seals.ts'
import type { SnapshotRecord } from '../../src/snapshots/record.ts'
import { aRecord } from './instance-context.ts'

/** A snapshot's record; its source is `instance`, or one that is nowhere. */
export function aSnapshot(change: Partial<SnapshotRecord> = {}): SnapshotRecord {
  const source = change.instance ?? aRecord()
  return {
    version: 3,
    id: newId(),
    name: '',
    kind: 'Stopped',
    tags: {},
    owner: null,
    scheduled: false,
    sourceInstanceId: source.id,
    sourceInstanceName: source.name,
    sourceHypervisor: source.hypervisor,
    createdAt: new Date().toISOString(),
    sizeBytes: 2,
    allocatedBytes: 1,
    pausedMs: 0,
    instance: source,
    ...change,
  }
}

/** Writes an instance's directory with nothing but its record and logs; returns the path. */
export async function putInstance(layout: DataLayout, record: InstanceRecord): Promise<string> {
  const directory = layout.instance(record.id)
  await mkdir(path.join(directory, instanceFiles.logs), { recursive: true })
  await stageRecord(path.join(directory, instanceFiles.record), record)
  return directory
}

/** Writes a snapshot's directory with an empty payload, or one with an empty disk and what `fill` adds, under seals; returns the path. */
export async function putSnapshot(
  layout: DataLayout,
  record: SnapshotRecord,
  diskBytes = 0,
  fill: (payload: string) => Promise<void> = async () => undefined,
): Promise<string> {
  const directory = layout.snapshot(record.id)
  const payload = path.join(directory, snapshotFiles.payload)
  await mkdir(payload, { recursive: true })
  const driver = createQemuDriver({ machineType: 'q35', accelerator: 'tcg', layout })
  if (diskBytes > 0) await driver.createDisk(payload, diskBytes)
  await fill(payload)
  await stageRecord(path.join(directory, snapshotFiles.record), record)
  await using digests = new Digests()
  await sealSnapshot(directory, record.id, driver, digests)
  return directory
}
