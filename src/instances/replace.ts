// Replaces an instance's directory by a staged one, all or nothing: the old directory is kept until the instance has reached its
// target state, and a journal beside the staged directory says after a crash where the swap stands.

import { mkdir, readdir, readFile } from 'node:fs/promises'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../api/errors.ts'
import { exchangePaths } from '../files/exchange.ts'
import { instanceFiles, type DataLayout } from '../files/layout.ts'
import { parseRecordText } from '../files/record-text.ts'
import { createStaged, moveToTrash, stageRecord, syncDirectory, syncTree } from '../files/stage.ts'
import { isMissing, linkTree } from '../files/tree.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import { newId } from '../platform/ids.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { killMachine } from './machine.ts'
import type { InstanceRecord } from './record.ts'
import { readInstanceRecord } from './store.ts'

/** Staged directories of replacements: `replace-<journal id>` with `journal.json` and `guest/`, the other directory. */
const stagedPrefix = 'replace-'
const journalFile = 'journal.json'
const otherDirectory = 'guest'

const journal = z.object({ id: z.string(), instanceId: z.string() })

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
  const id = newId()
  const place = context.layout.instance(entry.id)
  const before = { record: entry.record, holdsMemory: entry.holdsMemory }
  await using undo = new AsyncDisposableStack()
  const staged = undo.use(await step(flow, 'stage', () => createStaged(context.layout, `${stagedPrefix}${id}`)))
  const other = path.join(staged.path, otherDirectory)
  const record = await step(flow, 'fill', async () => {
    await mkdir(other)
    const filled = { ...(await replacement.fill(other)), restoring: id }
    await keepLogs(place, other)
    await stageRecord(path.join(other, instanceFiles.record), filled)
    await stageRecord(path.join(staged.path, journalFile), { id, instanceId: entry.id })
    await syncTree(staged.path)
    return filled
  })
  undo.defer(async () => {
    await killMachine(entry, new HypemanError('canceled', `the restore of ${entry.record.name} is being undone`))
    await swapBack(place, other, id)
    entry.record = before.record
    entry.holdsMemory = before.holdsMemory
  })
  await step(flow, 'swap', async () => {
    await swap(place, other)
    entry.record = record
    entry.holdsMemory = replacement.holdsMemory
  })
  await replacement.reach()
  await step(flow, 'confirm', () => context.store.update(entry, { restoring: null }))
  undo.move()
  await step(flow, 'drop-old', () => moveToTrash(context.layout, staged.path))
}

/** At start, before the sweep: brings back the old directory of every replacement that was not confirmed. `endProcess` ends what runs from the new one. */
export async function undoReplacements(
  layout: DataLayout,
  endProcess: (record: InstanceRecord) => Promise<void>,
): Promise<readonly string[]> {
  const undone: string[] = []
  for (const name of await readdir(layout.staging)) {
    if (!name.startsWith(stagedPrefix)) continue
    const staged = path.join(layout.staging, name)
    const entry = await readJournal(staged)
    if (entry === undefined) continue
    const place = layout.instance(entry.instanceId)
    const record = await readInstanceRecord(place)
    if (record.restoring !== entry.id) continue
    await endProcess(record)
    await swapBack(place, path.join(staged, otherDirectory), entry.id)
    undone.push(entry.instanceId)
  }
  return undone
}

async function swap(place: string, other: string): Promise<void> {
  exchangePaths(place, other)
  await syncDirectory(path.dirname(place))
  await syncDirectory(path.dirname(other))
}

/** Swaps again, but only if the staged directory is in place; so it may run twice. */
async function swapBack(place: string, other: string, id: string): Promise<void> {
  const record = await readInstanceRecord(place)
  if (record.restoring === id) await swap(place, other)
}

/** Logs and events go on in the same files: both directories name them. */
async function keepLogs(place: string, other: string): Promise<void> {
  await linkTree(path.join(place, instanceFiles.logs), path.join(other, instanceFiles.logs))
}

/** The journal, or undefined if the crash came before it was written: then nothing was swapped. */
async function readJournal(staged: string): Promise<z.infer<typeof journal> | undefined> {
  try {
    return journal.parse(parseRecordText(await readFile(path.join(staged, journalFile), 'utf8')))
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}
