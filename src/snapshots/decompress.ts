// Brings memory files of a snapshot back that lie there compressed alone, before something starts from them. The compressed files stay: when nobody uses the
// memory files any more, they go without being compressed again.

import { rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { decompressInto, sealOfRaw, type CompressedFile } from '../files/compressed-files.ts'
import { snapshotFiles } from '../files/layout.ts'
import { createStaged, syncDirectory } from '../files/stage.ts'
import { problemOfCompressed, removeUnsealedMemory, type CompressionHost } from './compress.ts'
import { rawPath, type CompressionRecord } from './compression-record.ts'
import type { SnapshotRecord } from './record.ts'

/** The caller holds the snapshot. Nothing has changed when it rejects: with `corrupt_snapshot` if a compressed file is damaged. */
export async function decompressMemory(
  host: CompressionHost,
  record: SnapshotRecord,
  wanted: CompressionRecord,
  files: readonly CompressedFile[],
  signal: AbortSignal,
): Promise<void> {
  const { keeper, instances } = host
  const directory = instances.layout.snapshot(record.id)
  const problem = await problemOfCompressed(
    host,
    record,
    files.map(({ name }) => name),
    wanted,
  )
  if (problem !== undefined) throw corrupt(record, problem)
  // What could not be sealed, or not be removed, takes the room of what is made now.
  if (!keeper.isReading(record.id)) await removeUnsealedMemory(directory, record.id, wanted)
  await using staged = await createStaged(instances.layout, `memory-${record.id}`)
  await decompressInto(staged.path, directory, files, wanted, (what, cause) => corrupt(record, what, cause), signal)
  await using undo = new AsyncDisposableStack()
  for (const { name } of files) {
    const place = path.join(directory, rawPath(name))
    await rename(path.join(staged.path, name), place)
    undo.defer(() => rm(place, { force: true }))
  }
  await syncDirectory(path.join(directory, snapshotFiles.payload))
  const seals = files.map(({ name, digest }) => sealOfRaw(directory, rawPath(name), digest))
  for (const seal of seals) if (seal.digest !== null) instances.digests.remember(seal, seal.digest)
  await keeper.update(record.id, (present) => [...present.filter(({ name }) => !seals.some((seal) => seal.name === name)), ...seals])
  undo.move()
}

function corrupt(record: SnapshotRecord, what: string, cause?: unknown): HypemanError {
  return new HypemanError(
    'corrupt_snapshot',
    `the snapshot ${record.id} is damaged (${what}) and nothing was started; use another snapshot, or target_state Stopped to start from its disks`,
    { cause },
  )
}
