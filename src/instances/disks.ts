// From a payload to the files of a new directory, also where the payload's hypervisor keeps disks in another format than the one that shall run them.

import path from 'node:path'
import type { HypervisorName } from '../hypervisors/driver.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import type { InstanceContext } from './context.ts'
import { driverOf } from './machine.ts'

export interface PayloadSource {
  /** Directory that nobody changes meanwhile. */
  readonly payload: string
  /** The hypervisor whose files are in it. */
  readonly hypervisor: HypervisorName
  /** Only to the same hypervisor. */
  readonly withMemory: boolean
}

/** The disk on its way from one format to another; by its name it enters no copy. */
const betweenFormats = 'disk-exchange.tmp'

/**
 * Fills a staged directory with what a payload holds. Equal formats share their files; else the disk goes through one raw file, which holds no more than what the
 * disk has: that takes time and room for all its data. The caller drops the directory if this fails.
 */
export async function fillFromPayload(
  context: InstanceContext,
  flow: FlowContext,
  { payload, hypervisor, withMemory }: PayloadSource,
  target: HypervisorName,
  directory: string,
): Promise<void> {
  const driver = driverOf(context, { hypervisor: target })
  const writer = driverOf(context, { hypervisor })
  if (withMemory || writer.diskFormat === driver.diskFormat) {
    await step(flow, 'materialise', () => driver.materialise(payload, directory, withMemory))
    return
  }
  const file = path.join(directory, betweenFormats)
  await step(flow, 'export-disk', () => writer.exportDisk(payload, file, flow.signal))
  await step(flow, 'import-disk', () => driver.importDisk(directory, file))
}
