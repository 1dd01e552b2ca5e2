// A filesystem of its own in a file, mounted by loop device: for what a temporary directory can't show (full disks, other filesystems). Needs root.

import { accessSync, constants } from 'node:fs'
import { mkdtemp, mkdir, open, rm, statfs, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { run } from './command.ts'

export type DiskKind = 'ext4' | 'xfs'

/** Why such a disk can't be made here, or false: for `skip` of node:test. */
export function diskMissing(kind: DiskKind): string | false {
  if (process.geteuid?.() !== 0) return 'mounting needs root'
  const tool = `mkfs.${kind}`
  const found = ['/usr/sbin', '/sbin', '/usr/bin'].some((directory) => isExecutable(path.join(directory, tool)))
  return found ? false : `${tool} is not installed`
}

export interface LoopDisk extends AsyncDisposable {
  readonly path: string
  /** The file that stands for the disk itself. */
  readonly image: string
  /** Writes until only that many bytes are left; `freeUp` undoes it. */
  fill(leaveBytes: number): Promise<void>
  freeUp(): Promise<void>
  /** From now on nothing can be written. */
  makeReadOnly(): Promise<void>
}

export async function mountDisk(kind: DiskKind, megabytes: number): Promise<LoopDisk> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'disk-'))
  const [image, at] = [path.join(home, 'image'), path.join(home, 'm')]
  await mkdir(at)
  await writeFile(image, '')
  await truncate(image, megabytes * 1024 ** 2)
  const made = await run(`mkfs.${kind}`, [...(kind === 'ext4' ? ['-q', '-m', '0'] : ['-q']), image])
  const mounted = made.code === 0 ? await run('mount', ['-o', 'loop', image, at]) : made
  if (mounted.code !== 0) {
    await rm(home, { recursive: true })
    throw new Error(`a disk of ${kind} can't be mounted: ${mounted.stderr}`)
  }
  const ballast = path.join(at, 'ballast')
  return {
    path: at,
    image,
    async fill(leaveBytes) {
      await using file = await open(ballast, 'w')
      const piece = Buffer.alloc(4 * 1024 ** 2, 1)
      for (;;) {
        const { bavail, bsize } = await statfs(at)
        if (bavail * bsize <= leaveBytes) return
        await file.write(piece, 0, Math.min(piece.length, bavail * bsize - leaveBytes))
        await file.sync()
      }
    },
    freeUp: () => rm(ballast, { force: true }),
    async makeReadOnly() {
      const { code, stderr } = await run('mount', ['-o', 'remount,ro', at])
      if (code !== 0) throw new Error(`${at} can't be made read-only: ${stderr}`)
    },
    async [Symbol.asyncDispose]() {
      await run('umount', [at])
      await rm(home, { recursive: true })
    },
  }
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false // not there, or not for us
  }
}
