// Makes the read-only disk of an image: umoci unpacks the layers, mkfs.erofs writes the files. Uncompressed, since a guest reads it often
// and may run under emulation. The same image gives the same bytes, but for the order of several extended attributes of one file.

import { open } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { IMAGE_NAME } from './layout-directory.ts'
import { digestHex } from './reference.ts'
import { lastLine, runTool, ToolError } from '../platform/tool.ts'

/** Unpacks the layout `layout` of the directory `work` into its `rootfs`. Whiteouts, owners, devices and extended attributes come out as the image says. */
export async function unpackRootfs(work: string, layout: string, image: string, signal: AbortSignal): Promise<string> {
  try {
    // Without root nothing can be owned by others and there are no devices: umoci then leaves both out.
    const rights = isRoot() ? [] : ['--rootless']
    await runTool('umoci', ['raw', 'unpack', ...rights, '--image', `${layout}:${IMAGE_NAME}`, 'rootfs'], { cwd: work, signal })
    return path.join(work, 'rootfs')
  } catch (error) {
    if (!(error instanceof ToolError)) throw error
    const reason = lastLine(error.said).replace(/^[^a-zA-Z]*(?:create rootfs: )?/, '')
    throw new HypemanError('invalid_archive', `${image} can't be unpacked: ${reason}`, { cause: error })
  }
}

/**
 * Writes a directory tree as an erofs image. Files keep their times, which interpreters compare with those of compiled caches; `newest` is the
 * time of the file system itself and of directories that no layer names.
 */
export async function writeErofs(rootfs: string, file: string, digest: string, newest: number, signal: AbortSignal): Promise<void> {
  const rights = isRoot() ? [] : ['--all-root', '-x', '-1']
  const uuid = digestHex(digest).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12}).*$/, '$1-$2-$3-$4-$5')
  await runTool('mkfs.erofs', ['--quiet', '-U', uuid, ...rights, file, rootfs], {
    cwd: path.dirname(file),
    signal,
    env: { SOURCE_DATE_EPOCH: String(newest) },
  })
  await checkErofs(file)
}

/** Magic number of erofs, at byte 1024. */
const EROFS_MAGIC = 0xe0f5e1e2

async function checkErofs(file: string): Promise<void> {
  await using handle = await open(file, 'r')
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(4), 0, 4, 1024)
  if (bytesRead !== 4 || buffer.readUInt32LE() !== EROFS_MAGIC) throw new Error(`mkfs.erofs left no file system in ${file}`)
}

function isRoot(): boolean {
  return process.geteuid?.() === 0
}
