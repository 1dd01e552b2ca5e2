// Before a restore or fork: is the snapshot what it was when it was taken? Cheap enough for every fork; what it can't find, verify.ts does.

import { HypemanError } from '../api/errors.ts'
import { checkSeals, type FileProblem, type FileSeal } from '../files/seals.ts'
import { driverOf } from '../instances/index.ts'
import { isCompressed } from './compression-record.ts'
import type { SnapshotContext } from './context.ts'
import type { SnapshotRecord } from './record.ts'
import { isReadWhole, partOf, payloadFiles, readSeals, SealsProblem, strangers } from './seals.ts'

/** `corrupt_snapshot` unless every file that a start with or without memory needs is in order. */
export async function checkSnapshot(context: SnapshotContext, record: SnapshotRecord, withMemory: boolean): Promise<void> {
  const driver = driverOf(context.instances, record.instance)
  const directory = context.instances.layout.snapshot(record.id)
  // Memory that is compressed has been decompressed by then, or is not needed.
  const isNeeded = ({ name }: { readonly name: string }): boolean => !isCompressed(name) && (withMemory || !isMemory(partOf(name, driver)))
  const [seals, names] = [sealsOf(directory, record), payloadFiles(directory)]
  const needed = seals.filter(isNeeded)
  const { problems, renewed } = await checkSeals(directory, needed, (name) => isReadWhole(name, driver), context.instances.digests)
  const all = [...problems, ...strangers(seals, names).filter(isNeeded)]
  if (all.length > 0) throw corrupt(record, all, withMemory && all.every(({ name }) => isMemory(partOf(name, driver))))
  if (renewed.length > 0) await context.keeper.update(record.id, (present) => replaced(present, renewed))
}

function sealsOf(directory: string, record: SnapshotRecord): readonly FileSeal[] {
  try {
    return readSeals(directory, record.id)
  } catch (error) {
    throw error instanceof SealsProblem ? corrupt(record, [error], false) : error
  }
}

/** The seals with some of them replaced by those of the same name. */
export function replaced(seals: readonly FileSeal[], by: readonly FileSeal[]): FileSeal[] {
  return seals.map((seal) => by.find(({ name }) => name === seal.name) ?? seal)
}

function isMemory(part: ReturnType<typeof partOf>): boolean {
  return part === 'memory' || part === 'state'
}

function corrupt(record: SnapshotRecord, problems: readonly FileProblem[], disksAreWhole: boolean): HypemanError {
  const words = problems.map(({ name, what }) => `${name} ${what}`)
  const advice = disksAreWhole
    ? 'use another snapshot, or target_state Stopped to start from its disks'
    : 'use another snapshot, or put the files back from a copy'
  return new HypemanError(
    'corrupt_snapshot',
    `the snapshot ${record.id} is damaged (${words.join(', ')}) and nothing was started; ${advice}`,
    { details: words.length > 1 ? words.map((message) => ({ message })) : [] },
  )
}
