// Removes an installed version, unless memory that only it can restore is still there.

import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { instanceFiles, snapshotFiles, type DataLayout } from '../files/layout.ts'
import { parseRecordText } from '../files/record-text.ts'
import { moveToTrash } from '../files/stage.ts'
import { isMissing } from '../files/tree.ts'
import type { Release } from '../hypervisors/release.ts'
import { installedVersions } from '../platform/binaries.ts'

/** `force`: also where memory needs it. */
export async function removeProgram(layout: DataLayout, release: Release, version: string, force: boolean): Promise<void> {
  const { hypervisor, program } = release
  const directory = layout.hypervisor(hypervisor)
  const installed = await installedVersions({ directory, program })
  if (!installed.some((one) => one.version === version))
    throw new Error(`${hypervisor} ${version} is not installed; installed are: ${installed.map((one) => one.version).join(', ') || 'none'}`)
  const users = force ? [] : await usersOf(layout, hypervisor, version)
  if (users.length > 0)
    throw new Error(
      `${users.join(', ')} last ran on ${hypervisor} ${version}, and memory saved there is restored by that version alone; delete them first, or give --force`,
    )
  await moveToTrash(layout, path.join(directory, version))
}

const stamp = z.looseObject({ hypervisor: z.string(), version: z.string() }).nullable()
const instanceStamp = z.looseObject({ name: z.string(), stamp })
const snapshotStamp = z.looseObject({ id: z.string(), kind: z.string(), instance: z.looseObject({ stamp }) })

/** The instances and snapshots whose memory is or may be of that version, in words. What can't be read can't be restored, and is passed over. */
async function usersOf(layout: DataLayout, hypervisor: string, version: string): Promise<string[]> {
  const users: string[] = []
  const isOf = (one: z.infer<typeof stamp>): boolean => one?.hypervisor === hypervisor && one.version === version
  for (const value of await recordsIn(layout.instances, instanceFiles.record)) {
    const { success, data } = instanceStamp.safeParse(value)
    if (success && isOf(data.stamp)) users.push(`the instance ${data.name}`)
  }
  for (const value of await recordsIn(layout.snapshots, snapshotFiles.record)) {
    const { success, data } = snapshotStamp.safeParse(value)
    if (success && data.kind === 'Standby' && isOf(data.instance.stamp)) users.push(`the snapshot ${data.id}`)
  }
  return users
}

async function recordsIn(directory: string, record: string): Promise<unknown[]> {
  const names = await readdir(directory).catch((error: unknown) => {
    if (isMissing(error)) return []
    throw error
  })
  const values: unknown[] = []
  for (const name of names) {
    const text = await readFile(path.join(directory, name, record), 'utf8').catch((error: unknown) => {
      if (isMissing(error)) return '' // gone meanwhile
      throw error
    })
    try {
      values.push(parseRecordText(text))
    } catch {
      // Damaged: nothing can be restored by it.
    }
  }
  return values
}
