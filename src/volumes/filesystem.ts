// Makes the ext4 image of a volume, empty or with the files of a directory. Sparse: it takes on disk what is in it.

import { open, stat } from 'node:fs/promises'
import { execa } from 'execa'
import { HypemanError } from '../api/errors.ts'
import { diskErrors } from '../platform/disk-error.ts'
import { GIB } from './record.ts'

/** One inode for so many bytes; what mke2fs gives file systems of common sizes. */
const BYTES_PER_INODE = 16_384

export interface Content {
  readonly directory: string
  /** Files and directories in it. */
  readonly entries: number
}

/** Makes `file`. Content that does not fit is `archive_too_large`. */
export async function makeFilesystem(file: string, sizeGib: number, content?: Content): Promise<void> {
  const sizeBytes = sizeGib * GIB
  await makeSparse(file, sizeBytes)
  // As many inodes again as the content takes, for what is written later.
  const inodes = Math.max(Math.floor(sizeBytes / BYTES_PER_INODE), 2 * (content?.entries ?? 0) + 64)
  const result = await execa(
    'mke2fs',
    [
      ...['-q', '-F', '-t', 'ext4', '-m', '0', '-N', String(inodes)],
      // The file is all holes, so nothing is left for a guest to initialise behind its user's back.
      ...['-E', 'assume_storage_prezeroed=1,nodiscard,lazy_itable_init=0,lazy_journal_init=0'],
      ...(content === undefined ? [] : ['-d', content.directory]),
      file,
    ],
    { reject: false, stdin: 'ignore', env: { LC_ALL: 'C', MKE2FS_SYNC: '0' } },
  )
  if (result.failed) throw failureOf(result, file, sizeGib)
  if (content !== undefined) await copyTop(content.directory, file)
}

/** mke2fs gives the content's files their owners and modes, but not the top directory. */
async function copyTop(directory: string, file: string): Promise<void> {
  const { mode, uid, gid } = await stat(directory)
  const commands = [`mode 0${mode.toString(8)}`, `uid ${uid}`, `gid ${gid}`].map((change) => `set_inode_field / ${change}\n`)
  // It ends with 0 whatever fails, and tells failures on its standard error, below its name and version.
  const { stderr } = await execa('debugfs', ['-w', '-f', '-', file], { input: commands.join(''), env: { LC_ALL: 'C' } })
  const [, ...complaints] = stderr.trim().split('\n')
  if (complaints.length > 0) throw new Error(`debugfs failed on ${file}: ${complaints.join('; ')}`)
}

async function makeSparse(file: string, sizeBytes: number): Promise<void> {
  try {
    await diskErrors(file, async () => {
      await using handle = await open(file, 'wx', 0o600)
      await handle.truncate(sizeBytes)
    })
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EFBIG')) throw error
    throw new HypemanError(
      'invalid_request',
      `size_gb: the filesystem of ${file} holds no file of ${sizeBytes / GIB} GiB; choose a smaller size`,
      { cause: error },
    )
  }
}

/** What mke2fs's complaint means. */
export function failureOf(
  result: { readonly stderr: string; readonly code?: string | undefined; readonly shortMessage?: string | undefined },
  file: string,
  sizeGib: number,
): Error {
  const { stderr, code } = result
  if (code === 'ENOENT') return new HypemanError('host_unavailable', 'mke2fs is not installed; run npm run setup')
  // The host's disk is full; the image's own lack of room is told by ext2fs in other words.
  if (/no space left on device|disk quota exceeded/i.test(stderr))
    return new HypemanError('storage_full', `no space left to write ${file}; free some and try again`, { cause: new Error(stderr) })
  if (/could not allocate (?:block|inode)|no free (?:space|inodes)|out of (?:space|inodes)/i.test(stderr))
    return new HypemanError(
      'archive_too_large',
      `the archive's files do not fit into ${sizeGib} GiB; create the volume with a larger size_gb`,
    )
  return new Error(`mke2fs failed on ${file}: ${stderr.trim() || (result.shortMessage ?? 'it did not say why')}`)
}
