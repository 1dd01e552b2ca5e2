// A filesystem of its own in a file, mounted by loop device: for what a temporary directory can't show (full disks, other filesystems,
// losses of power). Needs root.

import { spawnSync } from 'node:child_process'
import { accessSync, constants, readFileSync } from 'node:fs'
import { mkdtemp, mkdir, open, rename, rm, statfs, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { run } from './command.ts'

export type DiskKind = 'ext4' | 'xfs' | 'btrfs' | 'tmpfs'

interface Recipe {
  readonly mkfs: readonly string[]
  /** What was not synced is not written by itself while a test runs, where there is an option for that. */
  readonly mount: string
}

const recipes: Readonly<Record<Exclude<DiskKind, 'tmpfs'>, Recipe>> = {
  ext4: { mkfs: ['-q', '-m', '0'], mount: 'loop,commit=600' },
  xfs: { mkfs: ['-q', '-m', 'reflink=1'], mount: 'loop' },
  btrfs: { mkfs: ['-q'], mount: 'loop,commit=600' },
}

/** Why such a disk can't be made here, or false: for `skip` of node:test. */
export function diskMissing(kind: DiskKind): string | false {
  if (process.geteuid?.() !== 0) return 'mounting needs root'
  if (!kernelKnows(kind)) return `this kernel has no ${kind}`
  if (kind === 'tmpfs') return false
  const tool = `mkfs.${kind}`
  const found = ['/usr/sbin', '/sbin', '/usr/bin'].some((directory) => isExecutable(path.join(directory, tool)))
  return found ? false : `${tool} is not installed; npm run setup installs it`
}

function kernelKnows(kind: DiskKind): boolean {
  if (readFileSync('/proc/filesystems', 'utf8').includes(`\t${kind}\n`)) return true
  return spawnSync('modprobe', ['--dry-run', '--quiet', kind]).status === 0
}

/** A file with the disk's contents. */
export interface PowerCut {
  readonly image: string
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
  /** Notes what would be on the disk if it lost its power at this instant. What the filesystem has not written to it yet is not. */
  cut(): Promise<PowerCut>
  /** Mounts the disk as it is after a loss of power: at that instant, or now. Nothing may be open on it. */
  losePower(at?: PowerCut): Promise<void>
  /** Unmounts it, which nobody may use then, lets the filesystem's own checker look at it, and mounts it again. ext4 only. */
  mountAgain(): Promise<void>
}

export async function mountDisk(kind: DiskKind, megabytes: number): Promise<LoopDisk> {
  const home = await mkdtemp(path.join(os.tmpdir(), 'disk-'))
  const [image, at] = [path.join(home, 'image'), path.join(home, 'm')]
  await mkdir(at)
  try {
    if (kind === 'tmpfs') await tool('mount', ['-t', 'tmpfs', '-o', `size=${megabytes}m`, 'tmpfs', at])
    else {
      await writeFile(image, '')
      await truncate(image, megabytes * 1024 ** 2)
      await tool(`mkfs.${kind}`, [...recipes[kind].mkfs, image])
      await tool('mount', ['-o', recipes[kind].mount, image, at])
    }
  } catch (error) {
    await rm(home, { recursive: true })
    throw error
  }
  const ballast = path.join(at, 'ballast')
  let cuts = 0
  const cut = async (): Promise<PowerCut> => {
    const copy = `${image}-${(cuts += 1)}`
    await tool('cp', ['--sparse=always', image, copy])
    return { image: copy }
  }
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
    makeReadOnly: () => tool('mount', ['-o', 'remount,ro', at]),
    cut,
    async losePower(instant) {
      const lost = instant ?? (await cut())
      if (kind === 'tmpfs') throw new Error('a tmpfs keeps nothing')
      await tool('umount', [at])
      await rename(lost.image, image)
      await tool('mount', ['-o', recipes[kind].mount, image, at])
    },
    async mountAgain() {
      if (kind !== 'ext4') throw new Error(`no checker is known for ${kind}`)
      await tool('umount', [at])
      const { code, stdout, stderr } = await run('e2fsck', ['-p', image])
      // e2fsck(8): 1 says that it has repaired what it found.
      if (code !== 0 && code !== 1) throw new Error(`e2fsck failed: ${stdout}${stderr}`)
      await tool('mount', ['-o', recipes[kind].mount, image, at])
    },
    async [Symbol.asyncDispose]() {
      await run('umount', [at])
      await rm(home, { recursive: true })
    },
  }
}

async function tool(program: string, args: readonly string[]): Promise<void> {
  const { code, stderr } = await run(program, args)
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed: ${stderr}`)
}

function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false // not there, or not for us
  }
}
