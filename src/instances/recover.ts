// After a start of the server: finds the VMMs that went on without it, settles those that ended meanwhile, and ends what belongs to nobody.

import { readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import type { DataLayout } from '../files/layout.ts'
import { messageOf } from '../platform/flow.ts'
import { identityOf, killProcess, workingDirectory, type ProcessIdentity } from '../platform/process.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { attach, driverOf, endMachine, settleExit } from './machine.ts'
import { readyInBackground } from './readiness.ts'
import { adjustRecord } from './resize.ts'
import { sealMemory } from './saved-memory.ts'
import { endStillness } from './stillness.ts'
import { standbyCompressionOf } from './snapshot-policy.ts'

/** Adopts or settles every instance with a recorded process. One that can't be adopted is told in the log and never hides the others. */
export async function recoverInstances(context: InstanceContext): Promise<void> {
  for (const entry of context.store.entries()) {
    const { process } = entry.record
    if (process === null) continue
    try {
      await recoverInstance(context, entry, process)
    } catch (error) {
      context.log.error({ instance: entry.id, error: messageOf(error) }, 'a VMM of an earlier run could not be taken over')
    }
  }
}

async function recoverInstance(context: InstanceContext, entry: InstanceEntry, process: ProcessIdentity): Promise<void> {
  const driver = driverOf(context, entry.record)
  const machine = await driver.adopt({ directory: context.layout.instance(entry.id) }, process)
  if (machine === undefined) {
    await settleExit(context, entry, { process }, 'the VMM ended while the server was away')
    return
  }
  attach(context, entry, machine)
  // The server may have ended while it was made larger.
  if (driver.resize?.machine !== undefined) await adjustRecord(context, entry, { machine, resize: driver.resize.machine })
  // A machine of ours is paused only inside a flow, and that flow died with the server before it answered.
  if ((await machine.status()) === 'paused') {
    if (entry.holdsMemory) return endSuspended(context, entry)
    await machine.resume()
  }
  await endStillness(context, entry)
  const { record } = entry
  if (record.programStartedAt === null || record.agentReadyAt === null || record.identityDue !== null || entry.holdsMemory)
    readyInBackground(context, entry)
}

/** A paused machine beside a complete memory image was going to standby, or has not run since it came from there: it is in standby. */
async function endSuspended(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const { record } = entry
  const savedMemory = record.savedMemory ?? (await sealMemory(context, record, context.layout.instance(entry.id)))
  // What the standby itself asked for is not known any more.
  const standbyCompression =
    record.standbyCompression ?? standbyCompressionOf(record.snapshotPolicy, context.settings.compression, {}, Date.now())
  await endMachine(context, entry, { savedMemory, standbyCompression })
  context.events.state(entry.id, 'Standby', 'memory is on disk; the server ended in between')
}

/**
 * Ends VMMs that were started under this data directory and that no record names: their flow was cut off before it could record them. Those in a
 * `spared` directory are left alone: nobody can tell what its unreadable record says.
 */
export async function reapStrayVmms(
  layout: DataLayout,
  known: ReadonlySet<number>,
  spared: ReadonlySet<string> = new Set(),
): Promise<readonly number[]> {
  return endVmms(layout, (pid, directory) => !known.has(pid) && !spared.has(directory))
}

/** Ends the VMMs that run in a directory whose record can't be read. */
export async function endVmmsIn(layout: DataLayout, directory: string): Promise<void> {
  await endVmms(layout, (_pid, at) => at === directory)
}

async function endVmms(layout: DataLayout, chosen: (pid: number, directory: string) => boolean): Promise<readonly number[]> {
  const ended: number[] = []
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid)) continue
    const directory = await vmmDirectory(layout, pid)
    if (directory === undefined || !chosen(pid, directory)) continue
    const identity = identityOf(pid)
    if (identity === undefined) continue
    await killProcess(identity)
    ended.push(pid)
  }
  return ended
}

/** Working directory of a process that works below the data directory and carries an instance's name among its arguments. */
async function vmmDirectory(layout: DataLayout, pid: number): Promise<string | undefined> {
  try {
    const directory = (await workingDirectory(pid, layout.root))?.replace(/ \(deleted\)$/, '')
    if (directory === undefined || !directory.startsWith(`${layout.root}${path.sep}`)) return undefined
    return /(^|\0)hypeman-[a-z0-9]{24}(\0|,|$)/.test(await readFile(`/proc/${pid}/cmdline`, 'utf8')) ? directory : undefined
  } catch {
    return undefined // gone meanwhile, or not ours to look at: then it is not one that we started
  }
}
