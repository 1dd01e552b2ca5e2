// Flow: compress memory files of a snapshot, in the background. They are read and never changed; what was compressed is decompressed and compared before it counts;
// the memory files go when nobody uses them any more. A crash at any point leaves either of the two forms whole.

import path from 'node:path'
import {
  compareIn,
  compressedPath,
  compressInto,
  digestsIn,
  placeCompressed,
  removeUnsealedCompressed,
  sealedFile,
  sealsOfCompressed,
  type CompressedFile,
} from '../files/compressed-files.ts'
import { snapshotFiles } from '../files/layout.ts'
import { checkSeals, type FileSeal } from '../files/seals.ts'
import { createStaged, removeFile, syncDirectory, writeRecord } from '../files/stage.ts'
import { step } from '../platform/flow.ts'
import { replaced } from './check.ts'
import { rawPath, type CompressionRecord } from './compression-record.ts'
import { holdSnapshot, snapshotFlow, type SnapshotContext } from './context.ts'
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
  const { layout, digests } = host.instances
  using flow = snapshotFlow(host, record.sourceInstanceId, 'snapshot.compress', record.id, signal)
  const directory = layout.snapshot(record.id)
  await removeUnsealedCompressed(directory, readSeals(directory, record.id))
  await using staged = await createStaged(layout, `compression-${record.id}`)
  const raw = await step(flow, 'compress', async () => {
    const seals = readSeals(directory, record.id)
    const files = names.map((name) => sealedFile(directory, seals, rawPath(name)))
    await compressInto(staged.path, files, wanted, flow.signal, twins)
    return files
  })
  const compared = await step(flow, 'compare', () => compareIn(staged.path, raw, wanted, digests, flow.signal))
  const smaller = compared.filter(({ compressedBytes, allocatedBytes }) => compressedBytes < allocatedBytes)
  const kept = [...wanted.kept, ...compared.filter((one) => !smaller.includes(one)).map(({ name }) => name)]
  const files = [...wanted.files.filter((old) => !smaller.some(({ name }) => name === old.name)), ...smaller]
  const result: CompressionRecord = { ...wanted, files, kept }
  const made = await step(flow, 'seal', () => digestsIn(staged.path, smaller, wanted, digests, flow.signal))
  await step(flow, 'commit', async () => {
    await placeCompressed(staged.path, directory, smaller, wanted)
    await writeRecord(path.join(directory, snapshotFiles.compression), result, wanted)
    flow.signal.throwIfAborted()
    await host.keeper.update(record.id, (seals) => withCompressed(seals, smaller, sealsOfCompressed(directory, smaller, wanted, made)))
  })
  return result
}

/** The seals with those of the compressed files, and with the digests of the memory files that were learned on the way. */
function withCompressed(seals: readonly FileSeal[], files: readonly CompressedFile[], added: readonly FileSeal[]): FileSeal[] {
  const learned = new Map(files.map(({ name, digest }) => [rawPath(name), digest]))
  return [...seals.map((seal) => ({ ...seal, digest: seal.digest ?? learned.get(seal.name) ?? null })), ...added]
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
