// Memory images: a sparse base file at the pages' own offsets, and any number of diffs over it (diff-file.ts), each over what is before it.

import { open, stat } from 'node:fs/promises'
import { copyPayload } from '../copy.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import { diffPages, writeNonZero } from './diff-file.ts'
import { openMemory, pageBytes, readPages, writeFully, type Mapping, type PageRun } from './private-pages.ts'

/** Makes a file of holes: guest memory that nobody has touched. */
export async function createHoles(file: string, bytes: number): Promise<void> {
  await diskErrors(file, async () => {
    await using handle = await open(file, 'wx', 0o600)
    await handle.truncate(bytes)
  })
}

/** Writes the pages of a process whose base is holes as a new base: zero pages stay holes. Returns the bytes written. */
export async function saveAsBase(mapping: Mapping, runs: readonly PageRun[], file: string, signal?: AbortSignal): Promise<number> {
  return diskErrors(file, async () => {
    await using target = await open(file, 'wx', 0o600)
    await target.truncate(mapping.bytes)
    let written = 0
    for await (const { page, data } of readPages(mapping, runs, signal)) written += await writeNonZero(target, data, page * pageBytes)
    return written
  })
}

/** Writes the pages of diffs, first to last, into a process that maps their base, before its guest runs. */
export async function applyDiffs(files: readonly string[], mapping: Mapping): Promise<void> {
  await using memory = await openMemory(mapping)
  for (const file of files) for await (const { page, data } of diffPages(file, mapping.bytes)) await memory.writePages(page, data)
}

/** Makes a new base of a base and a diff over it: what both are together. Whoever commits the directory, or names the base, syncs it. */
export async function mergeDiff(base: string, diff: string, target: string, signal?: AbortSignal): Promise<void> {
  const { size } = await stat(base)
  await diskErrors(target, async () => {
    await copyPayload(base, target, { durable: false, ...(signal === undefined ? {} : { signal }) })
    await using handle = await open(target, 'r+')
    for await (const { page, data } of diffPages(diff, size)) {
      signal?.throwIfAborted()
      await writeFully(handle, data, page * pageBytes)
    }
  })
}
