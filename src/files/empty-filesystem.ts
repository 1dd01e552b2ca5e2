// Empty ext4 file systems as sparse files: what a machine's system disk begins with, whatever hypervisor it runs on.

import { link, lstat, rename, rm } from 'node:fs/promises'
import path from 'node:path'
import { diskErrors } from '../platform/disk-error.ts'
import { runDiskTool } from './disk-tool.ts'
import type { DataLayout } from './layout.ts'
import { createStaged, syncFile } from './stage.ts'
import { isMissing } from './tree.ts'

/** Links an empty ext4 of that size to `target`, a new name in the data directory; the file is made once per size in the cache and never written again. */
export async function linkFilesystem(layout: DataLayout, sizeBytes: number, target: string): Promise<void> {
  const cached = path.join(layout.cache, `ext4-${sizeBytes}.raw`)
  if (!(await isUsable(cached, sizeBytes))) await rm(cached, { recursive: true, force: true })
  try {
    await link(cached, target)
  } catch (error) {
    // A file takes only so many links (65 000 on ext4): then the next one takes over its name.
    if (!isMissing(error) && !(error instanceof Error && 'code' in error && error.code === 'EMLINK')) throw error
    await makeFilesystem(layout, cached, sizeBytes)
    await link(cached, target)
  }
}

/** False for what is no file of that size, such as a link, which would be linked in place of what it leads to. */
async function isUsable(file: string, sizeBytes: number): Promise<boolean> {
  return lstat(file).then(
    (stats) => stats.isFile() && stats.size === Math.floor(sizeBytes / 1024) * 1024,
    () => false,
  )
}

/** Largest journal, in MiB; smaller disks get the size that mke2fs deems right for them. */
const JOURNAL_MIB = 16
/** From this size on a disk takes a journal of `JOURNAL_MIB`. */
const JOURNAL_FROM_BYTES = 64 * 1024 ** 2

async function makeFilesystem(layout: DataLayout, cached: string, sizeBytes: number): Promise<void> {
  await using staged = await createStaged(layout, `ext4-${sizeBytes}-${process.hrtime.bigint()}`)
  const file = path.join(staged.path, 'disk.raw')
  await diskErrors(file, async () => {
    await formatStretch(file, { offsetBytes: 0, sizeBytes })
    await syncFile(file)
    await rename(file, cached)
  })
}

/** Makes an ext4 on a stretch of a raw file that is all holes, or in a new file. The file is not synced. */
export async function formatStretch(
  file: string,
  { offsetBytes, sizeBytes }: { readonly offsetBytes: number; readonly sizeBytes: number },
): Promise<void> {
  const journal = sizeBytes < JOURNAL_FROM_BYTES ? [] : ['-J', `size=${JOURNAL_MIB}`]
  // All holes: nothing is left for the guest to initialise behind its user's back.
  const empty = 'assume_storage_prezeroed=1,nodiscard,lazy_itable_init=0,lazy_journal_init=0'
  const extended = offsetBytes === 0 ? empty : `${empty},offset=${offsetBytes}`
  const options = ['-q', '-t', 'ext4', '-F', '-m', '0', '-i', '32768', ...journal, '-E', extended]
  await runDiskTool('mke2fs', [...options, file, `${Math.floor(sizeBytes / 1024)}k`], path.dirname(file))
}
