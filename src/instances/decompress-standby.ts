// Brings the memory of an instance in standby back that lies there compressed, before something starts from it or is made of it; and what a start of the server
// finds of both forms.

import { existsSync } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { compressedPath, decompressInto, noteOfDecompression, removeUnsealedCompressed, sealOfRaw } from '../files/compressed-files.ts'
import { instanceFiles } from '../files/layout.ts'
import { checkSeals } from '../files/seals.ts'
import { createStaged, syncDirectory } from '../files/stage.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import { messageOf, step, type FlowContext } from '../platform/flow.ts'
import { removeReplaced, stopCompressing } from './compress-standby.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import type { InstanceRecord } from './record.ts'

/** Memory that was brought back is not compressed again before this time, in milliseconds: it is there to be used. */
const REST_MS = 60_000

/**
 * The caller holds the instance, which is in standby. When this returns, its memory is there as it was saved, and nobody compresses it. If it rejects nothing has
 * changed: with `corrupt_snapshot` if what is compressed is damaged.
 */
export async function makeMemoryReady(context: InstanceContext, entry: InstanceEntry, flow: FlowContext): Promise<void> {
  await stopCompressing(entry)
  const { standbyCompression: wanted, savedMemory } = entry.record
  if (wanted === null || savedMemory === null || wanted.files.length === 0) return
  const directory = context.layout.instance(entry.id)
  const started = performance.now()
  await step(flow, 'decompress', async () => {
    const compressed = new Set(wanted.files.map(({ name }) => compressedPath(name, wanted)))
    const ofCompressed = savedMemory.filter(({ name }) => compressed.has(name))
    const { problems } = await checkSeals(directory, ofCompressed, () => false, context.digests)
    if (problems.length > 0) throw corrupt(entry, problems.map(({ name, what }) => `${name} ${what}`).join(', '))
    await using staged = await createStaged(context.layout, `memory-${entry.id}`)
    await decompressInto(staged.path, directory, wanted.files, wanted, (what, cause) => corrupt(entry, what, cause), flow.signal)
    await using undo = new AsyncDisposableStack()
    undo.defer(() => removeReplaced(context, directory, wanted))
    for (const { name } of wanted.files) await rename(path.join(staged.path, name), path.join(directory, name))
    await syncDirectory(directory)
    const seals = wanted.files.map(({ name, digest }) => sealOfRaw(directory, name, digest))
    for (const seal of seals) if (seal.digest !== null) context.digests.remember(seal, seal.digest)
    await context.store.update(entry, {
      savedMemory: [...savedMemory.filter(({ name }) => !compressed.has(name)), ...seals],
      standbyCompression: { ...wanted, files: [], notBefore: new Date(Date.now() + REST_MS).toISOString() },
    })
    undo.move()
    await removeCompressed(context, entry)
  })
  const note = noteOfDecompression(wanted.files, wanted.algorithm)
  flow.onStep({ flow: flow.flow, step: 'memory-decompressed', ms: performance.now() - started, note })
}

/** Compressed files that nothing names any more. What can't be removed goes when the server starts again. */
export async function removeCompressed({ layout, log }: InstanceContext, { id }: Pick<InstanceEntry, 'id'>): Promise<void> {
  try {
    await rm(path.join(layout.instance(id), instanceFiles.compressed), { recursive: true, force: true })
  } catch (error) {
    log.warn(
      { instance: id, error: messageOf(error) },
      'compressed memory that is not needed any more takes room until the server starts again',
    )
  }
}

/** Whether a directory holds a complete memory image, in one form or the other. */
export async function holdsMemoryIn(driver: Hypervisor, record: InstanceRecord, directory: string): Promise<boolean> {
  return ((await driver.memory?.holdsMemory(directory)) ?? false) || holdsCompressed(driver, record, directory)
}

/** Its memory is given up by removing the device state first: without that nothing starts from what is compressed. */
function holdsCompressed(driver: Hypervisor, { standbyCompression, savedMemory, process }: InstanceRecord, directory: string): boolean {
  if (process !== null || savedMemory === null || (standbyCompression?.files.length ?? 0) === 0) return false
  const states = savedMemory.filter(({ name }) => driver.partOf(name) === 'state')
  return states.length > 0 && states.every(({ name }) => existsSync(path.join(directory, name)))
}

/** At a start of the server: removes what a crash left of one form or the other. */
export async function tidyStandby(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  const directory = context.layout.instance(entry.id)
  if (!existsSync(path.join(directory, instanceFiles.compressed))) return
  const { standbyCompression, savedMemory } = entry.record
  const isInForce = entry.holdsMemory && entry.record.process === null && (standbyCompression?.files.length ?? 0) > 0
  if (!isInForce) return removeCompressed(context, entry)
  await removeUnsealedCompressed(directory, savedMemory ?? [])
  await removeReplaced(context, directory, standbyCompression)
}

function corrupt({ record }: InstanceEntry, what: string, cause?: unknown): HypemanError {
  return new HypemanError(
    'corrupt_snapshot',
    `what the instance ${record.name} saved for its standby is damaged (${what}) and was not started; hypeman stop ${record.name} gives its memory up, and hypeman start ${record.name} boots from its disks`,
    { cause },
  )
}
