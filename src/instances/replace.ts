// Replaces an instance's directory by a staged one, all or nothing: the old directory is kept until the instance has reached its
// target state, and a journal beside the staged directory says after a crash where the swap stands.

import { mkdir, readdir } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { exchangePaths } from '../files/exchange.ts'
import { instanceFiles, type DataLayout } from '../files/layout.ts'
import { defineRecord, fileWord, RecordError } from '../files/record-format.ts'
import { createStaged, moveToTrash, stageRecord, syncDirectory, syncTree, writeRecord } from '../files/stage.ts'
import { isMissing, linkTree, refuseForeignFiles } from '../files/tree.ts'
import { messageOf, step, type FlowContext } from '../platform/flow.ts'
import { newId } from '../platform/ids.ts'
import { stopCompressing } from './compress-standby.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { killMachine } from './machine.ts'
import type { InstanceRecord } from './record.ts'
import { readInstanceRecord } from './store.ts'

/** Staged directories of replacements: `replace-<journal id>` with `journal.json` and `guest/`, the other directory. */
const stagedPrefix = 'replace-'
const journalFile = 'journal.json'
const otherDirectory = 'guest'

export const journalFormat = defineRecord({
  kind: 'restore journal',
  version: 1,
  schema: z.object({ version: z.literal(1), id: fileWord, instanceId: fileWord }).readonly(),
  // The first journals said no version, and nothing else has changed since.
  steps: { 0: (journal) => journal },
})

type Journal = z.infer<typeof journalFormat.schema>

export interface Replacement {
  /** Fills the staged directory with everything but the record; returns the record that goes with it. */
  fill(directory: string): Promise<InstanceRecord>
  readonly holdsMemory: boolean
  /** Brings the replaced instance to its target state. If it throws, the old directory is back. */
  reach(): Promise<void>
}

/** The caller holds the instance's lock and has made sure that no VMM runs. */
export async function replaceInstance(
  context: InstanceContext,
  entry: InstanceEntry,
  flow: FlowContext,
  replacement: Replacement,
): Promise<void> {
  await stopCompressing(entry)
  const id = newId()
  const place = context.layout.instance(entry.id)
  const before = { record: entry.record, holdsMemory: entry.holdsMemory }
  await using undo = new AsyncDisposableStack()
  let swapped = false
  const staged = await step(flow, 'stage', async () => {
    const made = await createStaged(context.layout, `${stagedPrefix}${id}`)
    // What can't be swapped back stays, so that the next start of the server does it.
    undo.defer(async () => (swapped ? undefined : made[Symbol.asyncDispose]()))
    return made
  })
  const other = path.join(staged.path, otherDirectory)
  const record = await step(flow, 'fill', async () => {
    await mkdir(other)
    const filled = { ...(await replacement.fill(other)), restoring: id }
    await keepLogs(place, other)
    await stageRecord(path.join(other, instanceFiles.record), filled)
    await syncTree(staged.path)
    // Whole or absent at every instant: the next start of the server reads it wherever this one is cut off.
    await writeRecord(path.join(staged.path, journalFile), { version: 1, id, instanceId: entry.id } satisfies Journal, null)
    await syncDirectory(context.layout.staging)
    return filled
  })
  undo.defer(async () => {
    await killMachine(context, entry, new HypemanError('canceled', `the restore of ${entry.record.name} is being undone`))
    if (!swapped) return
    exchangePaths(place, other)
    swapped = false
    entry.record = before.record
    entry.holdsMemory = before.holdsMemory
    await syncSwap(place, other)
  })
  await step(flow, 'swap', async () => {
    exchangePaths(place, other)
    swapped = true
    await syncSwap(place, other)
    entry.record = record
    entry.holdsMemory = replacement.holdsMemory
  })
  await replacement.reach()
  await step(flow, 'confirm', async () => {
    await demandLife(entry)
    await context.store.update(entry, { restoring: null })
  })
  undo.move()
  try {
    await step(flow, 'drop-old', () => moveToTrash(context.layout, staged.path))
  } catch (error) {
    // It is restored all the same.
    context.log.warn({ instance: entry.id, error: messageOf(error) }, 'what a restore has replaced goes when the server starts again')
  }
}

/** What has ended since it was reached is not what was asked for, and the old state is still here. */
async function demandLife(entry: InstanceEntry): Promise<void> {
  if (entry.record.process === null) return
  const { state } = await entry.observe()
  if (state === 'Stopped' || state === 'Standby')
    throw new HypemanError('guest_unreachable', `the VMM of ${entry.record.name} ended as soon as it was restored; it is as it was before`)
}

/** What became of the replacements that were under way when the server ended. */
export interface UndoneReplacements {
  /** Ids of the instances whose old directory is back. */
  readonly undone: readonly string[]
  /** Staged directories that may hold an instance's only good state, and why they could not be brought back: not to be swept. */
  readonly stuck: ReadonlyMap<string, string>
}

/** At start, before the sweep: brings back the old directory of every replacement that was not confirmed. `endProcess` ends what runs from the new one. */
export async function undoReplacements(
  layout: DataLayout,
  endProcess: (record: InstanceRecord) => Promise<void>,
): Promise<UndoneReplacements> {
  const undone: string[] = []
  const stuck = new Map<string, string>()
  for (const staged of await readdir(layout.staging, { withFileTypes: true })) {
    if (!staged.name.startsWith(stagedPrefix) || !staged.isDirectory()) continue
    try {
      const id = await undoReplacement(layout, path.join(layout.staging, staged.name), endProcess)
      if (id !== undefined) undone.push(id)
    } catch (error) {
      stuck.set(staged.name, error instanceof RecordError ? error.message : messageOf(error))
    }
  }
  return { undone, stuck }
}

async function undoReplacement(
  layout: DataLayout,
  staged: string,
  endProcess: (record: InstanceRecord) => Promise<void>,
): Promise<string | undefined> {
  const journal = await readJournal(staged)
  if (journal === undefined) return undefined
  const place = layout.instance(journal.instanceId)
  const record = await readPlaced(place)
  if (record === undefined || record.restoring !== journal.id) return undefined
  await endProcess(record)
  const other = path.join(staged, otherDirectory)
  exchangePaths(place, other)
  await syncSwap(place, other)
  return journal.instanceId
}

/** The record of the instance in place; undefined if that was deleted meanwhile: then nothing is left to bring back. */
async function readPlaced(place: string): Promise<InstanceRecord | undefined> {
  try {
    refuseForeignFiles(place)
  } catch (error) {
    if (isHypemanError(error) && isMissing(error.cause)) return undefined
    throw error
  }
  return readInstanceRecord(place)
}

async function syncSwap(place: string, other: string): Promise<void> {
  await syncDirectory(path.dirname(place))
  await syncDirectory(path.dirname(other))
}

/** Logs and events go on in the same files: both directories name them. */
async function keepLogs(place: string, other: string): Promise<void> {
  await linkTree(path.join(place, instanceFiles.logs), path.join(other, instanceFiles.logs))
}

/** The journal, or undefined if the crash came before it was written: then nothing was swapped. */
async function readJournal(staged: string): Promise<Journal | undefined> {
  try {
    return await journalFormat.read(path.join(staged, journalFile))
  } catch (error) {
    if (error instanceof RecordError && isMissing(error.cause)) return undefined
    throw error
  }
}
