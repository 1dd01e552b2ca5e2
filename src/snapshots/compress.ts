// Flow: compress memory files of a snapshot, in the background. They are read and never changed; what was compressed is decompressed and compared before it counts;
// the memory files go when nobody uses them any more. A crash at any point leaves either of the two forms whole.

import { link, mkdir, readdir, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { compressFile, decompressingCommand } from '../files/compression.ts'
import type { Digests } from '../files/digests.ts'
import { seeFile, type SeenFile } from '../files/identity.ts'
import { snapshotFiles } from '../files/layout.ts'
import { checkSeals, lookAt, sealOf, writtenBeforeDigest, type FileSeal } from '../files/seals.ts'
import { createStaged, removeFile, syncDirectory, syncFile, writeRecord } from '../files/stage.ts'
import { isMissing } from '../files/tree.ts'
import { step } from '../platform/flow.ts'
import { replaced } from './check.ts'
import { compressedPath, rawPath, type CompressedFile, type CompressionRecord } from './compression-record.ts'
import { holdSnapshot, snapshotFlow, type SnapshotContext } from './context.ts'
import { isSealed } from './keeper.ts'
import type { SnapshotRecord } from './record.ts'
import { readSeals } from './seals.ts'

/** Whoever frees memory waits for nobody: there is always another chance. */
const NO_WAIT_MS = 0

/** What compressing works with. */
export type CompressionHost = Omit<SnapshotContext, 'compressor'>

export interface CompressionWork {
  readonly wanted: CompressionRecord
  /** Of the memory files. */
  readonly names: readonly string[]
  /** Files that should hold what some of them become, by their names: they are shared instead of being made anew. */
  readonly twins: ReadonlyMap<string, string>
}

/**
 * Compresses the named memory files and returns the snapshot's new compression record. The memory files stay. The caller sees to it that the snapshot is not
 * deleted meanwhile; restores and forks may go on.
 */
export async function compressMemory(
  host: CompressionHost,
  record: SnapshotRecord,
  { wanted, names, twins }: CompressionWork,
  signal: AbortSignal,
): Promise<CompressionRecord> {
  const { layout } = host.instances
  using flow = snapshotFlow(host, record.sourceInstanceId, 'snapshot.compress', record.id, signal)
  const directory = layout.snapshot(record.id)
  await removeUnsealedCompressed(directory, record.id)
  await using staged = await createStaged(layout, `compression-${record.id}`)
  const inStage = (name: string): string => path.join(staged.path, path.basename(compressedPath(name, wanted)))
  const raw = await step(flow, 'compress', async () => {
    const before = names.map((name) => sealedFile(directory, record.id, name))
    for (const name of names)
      if (!(await linked(twins.get(name), inStage(name))))
        await compressFile(path.join(directory, rawPath(name)), inStage(name), wanted, flow.signal)
    return before
  })
  const compared = await step(flow, 'compare', () =>
    Promise.all(raw.map((one) => compare(host, wanted, one, inStage(one.name), flow.signal))),
  )
  const smaller = compared.filter(({ compressedBytes, allocatedBytes }) => compressedBytes < allocatedBytes)
  const kept = [...wanted.kept, ...compared.filter((one) => !smaller.includes(one)).map(({ name }) => name)]
  const files = [...wanted.files.filter((old) => !smaller.some(({ name }) => name === old.name)), ...smaller]
  const result: CompressionRecord = { ...wanted, files, kept }
  const digests = new Map<string, string>()
  await step(flow, 'seal', async () => {
    for (const { name } of smaller)
      digests.set(name, (await host.instances.digests.read(inStage(name), { urgent: false, signal: flow.signal })).digest)
  })
  await step(flow, 'commit', async () => {
    const place = path.join(directory, snapshotFiles.compressed)
    if (smaller.length > 0) await mkdir(place, { recursive: true, mode: 0o700 })
    for (const { name } of smaller) {
      await syncFile(inStage(name))
      await rename(inStage(name), path.join(directory, compressedPath(name, wanted)))
    }
    if (smaller.length > 0) await syncDirectory(place)
    await writeRecord(path.join(directory, snapshotFiles.compression), result, wanted)
    flow.signal.throwIfAborted()
    await host.keeper.update(record.id, (seals) => withCompressed(directory, seals, smaller, wanted, digests))
  })
  return result
}

/** False if there is no such file, or not any more. */
async function linked(twin: string | undefined, target: string): Promise<boolean> {
  if (twin === undefined) return false
  try {
    await link(twin, target)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

interface RawFile {
  readonly name: string
  readonly seal: FileSeal
  readonly seen: SeenFile
}

/** A memory file that is as it was sealed; throws otherwise. */
function sealedFile(directory: string, snapshotId: string, name: string): RawFile {
  const seal = readSeals(directory, snapshotId).find((one) => one.name === rawPath(name))
  if (seal === undefined) throw new Error(`${name} is not part of the snapshot`)
  const seen = seeFile(path.join(directory, seal.name))
  const problem = lookAt(seal, seen)
  if (seen === undefined || problem !== undefined) throw new Error(`${name} ${problem?.what ?? 'is missing'}`)
  if (seal.damagedAt !== null) throw new Error(`${name} was found damaged when its contents were verified`)
  if (!isSealed(seal, seen)) throw new Error(`${name} ${writtenBeforeDigest}, or put back since; hypeman snapshot verify tells more`)
  return { name, seal, seen }
}

/** Decompresses what was compressed, and rejects if that is not what was saved. */
async function compare(
  { instances: { digests, layout } }: CompressionHost,
  wanted: CompressionRecord,
  { name, seal, seen }: RawFile,
  compressed: string,
  signal: AbortSignal,
): Promise<CompressedFile> {
  const { sizeBytes } = seal
  const found = await digests.readOutput({ command: decompressingCommand(compressed, wanted.algorithm), sizeBytes }, signal)
  const file = path.join(layout.snapshot(wanted.snapshotId), rawPath(name))
  const digest = seal.digest ?? digests.known(seen) ?? (await digestOf(file, seal, digests, signal))
  if (found !== digest) throw new Error(`${name} has other contents than when it was saved, or did not come back as it was`)
  return { name, sizeBytes, allocatedBytes: seen.allocatedBytes, digest, compressedBytes: seeFile(compressed)?.sizeBytes ?? 0 }
}

/** For a file that the keeper of the seals has not come to yet. */
async function digestOf(file: string, seal: FileSeal, digests: Digests, signal: AbortSignal): Promise<string> {
  const { digest, identity } = await digests.read(file, { urgent: false, signal })
  if (!isSealed(seal, identity)) throw new Error(`${seal.name} was replaced while it was read`)
  digests.remember(identity, digest)
  return digest
}

/** The seals with those of the compressed files, and with the digests of the memory files that were learned on the way. */
function withCompressed(
  directory: string,
  seals: readonly FileSeal[],
  files: readonly CompressedFile[],
  wanted: CompressionRecord,
  digests: ReadonlyMap<string, string>,
): FileSeal[] {
  const added = files.map(({ name }) => {
    const sealedName = compressedPath(name, wanted)
    const seen = seeFile(path.join(directory, sealedName))
    if (seen === undefined) throw new Error(`${sealedName} is missing`)
    return sealOf(sealedName, seen, digests.get(name) ?? null)
  })
  const learned = new Map(files.map(({ name, digest }) => [rawPath(name), digest]))
  return [...seals.map((seal) => ({ ...seal, digest: seal.digest ?? learned.get(seal.name) ?? null })), ...added]
}

/** What an attempt before this one left: it was never in force. */
export async function removeUnsealedCompressed(directory: string, snapshotId: string): Promise<void> {
  const sealed = new Set(readSeals(directory, snapshotId).map(({ name }) => name))
  for (const name of await namesIn(path.join(directory, snapshotFiles.compressed)))
    if (!sealed.has(path.join(snapshotFiles.compressed, name))) await rm(path.join(directory, snapshotFiles.compressed, name))
}

/**
 * Removes memory files that lie there compressed as well and are `freeable` then, if nobody uses the snapshot; nothing happens otherwise. From the
 * moment at which the seals leave them out they are not there any more, so that what a crash leaves of them is removed at the next chance.
 */
export async function freeMemory(
  host: CompressionHost,
  record: SnapshotRecord,
  wanted: CompressionRecord,
  freeable: () => readonly string[],
  signal: AbortSignal,
): Promise<boolean> {
  const { instances, keeper, locks, store } = host
  if (locks.isHeld(record.id) || keeper.isReading(record.id)) return false
  using _hold = await holdSnapshot(host, record, false, NO_WAIT_MS)
  if (store.byId(record.id) === undefined || keeper.isReading(record.id)) return false
  const directory = instances.layout.snapshot(record.id)
  using flow = snapshotFlow(host, record.sourceInstanceId, 'snapshot.compress', record.id, signal)
  await step(flow, 'free', async () => {
    const names = freeable()
    const gone = names.map(rawPath)
    const problem = await problemOfCompressed(host, record, names, wanted)
    if (problem !== undefined) throw new Error(`${problem}: the memory file stays`)
    // On a full disk seals can't be written: what is not sealed any more goes without.
    if (readSeals(directory, record.id).some(({ name }) => gone.includes(name)))
      await keeper.update(record.id, (seals) => seals.filter(({ name }) => !gone.includes(name)))
    // Whoever began to verify while the seals were written has read those from before.
    if (!keeper.isReading(record.id) && (await removeUnsealedMemory(directory, record.id, wanted)) > 0) store.renew(record.id)
  })
  return true
}

/** What is wrong with the compressed form of some memory files, looked at as a restore looks at all others (check.ts); undefined if nothing is. */
export async function problemOfCompressed(
  { instances, keeper }: CompressionHost,
  { id }: SnapshotRecord,
  names: readonly string[],
  wanted: CompressionRecord,
): Promise<string | undefined> {
  const directory = instances.layout.snapshot(id)
  const needed = new Set(names.map((name) => compressedPath(name, wanted)))
  const seals = readSeals(directory, id).filter(({ name }) => needed.has(name))
  const { problems, renewed } = await checkSeals(directory, seals, () => false, instances.digests)
  if (problems.length > 0) return problems.map(({ name, what }) => `${name} ${what}`).join(', ')
  if (renewed.length > 0) await keeper.update(id, (present) => replaced(present, renewed))
  return undefined
}

/** Removes memory files that are not sealed any more and lie there compressed, and returns how many. Nobody may read the snapshot meanwhile. */
export async function removeUnsealedMemory(directory: string, snapshotId: string, wanted: CompressionRecord): Promise<number> {
  const sealed = new Set(readSeals(directory, snapshotId).map(({ name }) => name))
  const gone = wanted.files.filter(({ name }) => sealed.has(compressedPath(name, wanted)) && !sealed.has(rawPath(name)))
  let removed = 0
  for (const { name } of gone) if (await removeFile(path.join(directory, rawPath(name)))) removed += 1
  if (removed > 0) await syncDirectory(path.join(directory, snapshotFiles.payload))
  return removed
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if (isMissing(error)) return []
    throw error
  }
}
