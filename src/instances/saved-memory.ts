// The seals of an instance in standby: made when its memory is saved, checked before anything goes on from there. What a check finds: docs/reliability.md.

import { readdir } from 'node:fs/promises'
import { HypemanError } from '../api/errors.ts'
import { checkSeals, sealFiles, type FileSeal } from '../files/seals.ts'
import { step, type FlowContext } from '../platform/flow.ts'
import type { InstanceContext } from './context.ts'
import { makeMemoryReady } from './decompress-standby.ts'
import type { InstanceEntry } from './entry.ts'
import { driverOf } from './machine.ts'
import type { InstanceRecord } from './record.ts'

/** Seals the memory image in a directory, with the disks that it needs. Nothing may run from it. */
export async function sealMemory(
  context: InstanceContext,
  record: Pick<InstanceRecord, 'hypervisor'>,
  directory: string,
): Promise<readonly FileSeal[]> {
  const driver = driverOf(context, record)
  const names = (await readdir(directory)).filter((name) => driver.partOf(name) !== undefined)
  return sealFiles(directory, names, (name) => driver.partOf(name) === 'state', context.digests)
}

/** Before the memory of an instance in standby is used, by a flow that holds it: brings it back if it lies there compressed, and checks it. */
export async function demandMemory(context: InstanceContext, entry: InstanceEntry, flow: FlowContext): Promise<void> {
  await makeMemoryReady(context, entry, flow)
  await step(flow, 'check', () => checkMemory(context, entry.record))
}

/** `corrupt_snapshot` if the memory of an instance in standby is not what was saved. One without seals is left to its driver's own checks. */
async function checkMemory(context: InstanceContext, record: InstanceRecord): Promise<void> {
  const driver = driverOf(context, record)
  const isState = (name: string): boolean => driver.partOf(name) === 'state'
  const { problems } = await checkSeals(context.layout.instance(record.id), record.savedMemory ?? [], isState, context.digests)
  if (problems.length === 0) return
  const words = problems.map(({ name, what }) => `${name} ${what}`)
  const disksAreWhole = problems.every(({ name }) => driver.partOf(name) !== 'disk')
  const advice = disksAreWhole
    ? `hypeman stop ${record.name} gives its memory up, and hypeman start ${record.name} boots from its disks`
    : 'restore one of its snapshots, or put the files back from a copy'
  throw new HypemanError(
    'corrupt_snapshot',
    `what the instance ${record.name} saved for its standby is damaged (${words.join(', ')}) and was not started; ${advice}`,
    { details: words.length > 1 ? words.map((message) => ({ message })) : [] },
  )
}
