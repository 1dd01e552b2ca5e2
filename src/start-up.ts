// What a server does first with a data directory that is its own by then: what an earlier one left half done is undone or removed, and what runs is found again.

import path from 'node:path'
import type { Logger } from 'pino'
import type { DataLayout } from './files/layout.ts'
import { sweep } from './files/stage.ts'
import { holdsMemoryIn, reapStrayVmms, undoReplacements, type InstanceContext } from './instances/index.ts'
import { killProcess } from './platform/process.ts'

/** Undoes restores that were cut off, and removes what is staged or half removed. */
export async function tidyDataDirectory(layout: DataLayout, log: Logger): Promise<void> {
  const { undone, stuck } = await undoReplacements(layout, async ({ process }) => {
    if (process !== null) await killProcess(process)
  })
  for (const [name, reason] of stuck)
    log.error(
      { path: path.join(layout.staging, name), reason },
      'a restore that was cut off can not be undone; the state from before it is kept at this path until you remove it',
    )
  if (undone.length > 0) log.warn({ instances: undone }, 'restores that were cut off are undone')
  const { swept, left } = await sweep(layout, new Set(stuck.keys()))
  if (swept.length > 0) log.info({ swept }, 'what was half made or half removed is gone')
  if (left.length > 0) log.warn({ left }, 'what was half made or half removed could not be removed and takes room')
}

/** Reads the instances, and ends the VMMs of this data directory that no instance names. */
export async function loadInstances({ store, drivers, layout, log }: InstanceContext): Promise<void> {
  await store.load(async (record, directory) => {
    const driver = drivers.get(record.hypervisor)
    await driver?.refuseForeign?.(directory)
    return driver !== undefined && (await holdsMemoryIn(driver, record, directory))
  })
  const known = [...store.entries()].flatMap(({ record }) => (record.process === null ? [] : [record.process.pid]))
  const reaped = await reapStrayVmms(layout, new Set(known), new Set(store.unreadable().map((one) => one.path)))
  if (reaped.length > 0) log.warn({ pids: reaped }, 'VMMs that belong to no instance are ended')
}
