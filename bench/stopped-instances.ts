// Stopped instances on disk, for what only lists or looks them up: the product's own records, written by its own writers.

import type { DataLayout } from '../src/files/layout.ts'
import { createQemuDriver } from '../src/hypervisors/qemu/index.ts'
import { addLayer } from '../src/hypervisors/qemu/layers.ts'
import type { InstanceRecord } from '../src/instances/index.ts'
import { aRecord } from '../tests/support/instance-context.ts'
import { putInstance } from '../tests/support/records.ts'

const DISK_BYTES = 1024 ** 3

/** Writes the next one; `index` tells them apart, `team` is a tag of it. The server must not run. */
export async function putStopped(layout: DataLayout, index: number, team: string): Promise<InstanceRecord> {
  const driver = createQemuDriver({ machineType: 'q35', accelerator: 'tcg', layout })
  const record: InstanceRecord = {
    ...aRecord(),
    env: { HOME: '/root', APP_MODE: 'production', APP_SEED: String(index) },
    tags: { team, env: 'bench' },
    cmd: ['/usr/bin/app', '--listen', '0.0.0.0:8080'],
    startedAt: new Date().toISOString(),
    stoppedAt: new Date().toISOString(),
  }
  const directory = await putInstance(layout, record)
  await driver.createDisk(directory, DISK_BYTES)
  await addLayer(directory, 0, false)
  return record
}
