// A disk whose every write and sync is on record, with a file system on it: what a server keeps there can be looked at as it would be after
// a loss of power at any instant (replay.ts). Needs root and FUSE.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, statSync } from 'node:fs'
import { mkdir, truncate, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { run } from '../command.ts'
import { mountSmallDisk } from '../images.ts'
import { diskMissing } from '../loop-disk.ts'
import { until } from '../until.ts'
import { readLog, type Epoch } from './write-log.ts'

/**
 * How each file system is made and mounted: without discards, which a recorded disk does not take, and without what would make things durable that
 * nobody asked to (commits by time, ext4's guess that a rename wants its file on disk).
 */
const filesystems = {
  ext4: {
    make: ['mkfs.ext4', '-q', '-m', '0', '-J', 'size=8', '-E', 'nodiscard,lazy_itable_init=0,assume_storage_prezeroed=1'],
    options: 'noauto_da_alloc,commit=3600',
  },
  // Several copies of one disk are mounted at a time.
  xfs: { make: ['mkfs.xfs', '-q', '-K'], options: 'nodiscard,nouuid' },
  btrfs: { make: ['mkfs.btrfs', '-q', '-K'], options: 'nodiscard,commit=3600' },
} as const

export type Filesystem = keyof typeof filesystems

const MEBIBYTES = 2048

/** Why no such disk can be made here, or false: for `skip` of node:test. */
export function recordingImpossible(filesystem: Filesystem): string | false {
  if (!existsSync('/dev/fuse')) return 'this kernel has no FUSE (/dev/fuse)'
  const [major = 0, minor = 0] = os.release().split('.').map(Number)
  if (filesystem === 'btrfs' && major * 100 + minor < 607) return 'Linux before 6.7 does not mount two copies of a btrfs at a time'
  return diskMissing(filesystem)
}

export interface Recording {
  readonly filesystem: Filesystem
  readonly sizeBytes: number
  readonly log: string
  readonly epochs: readonly Epoch[]
}

/** Disposing unmounts it and removes its files. */
export interface RecordedDisk extends AsyncDisposable {
  /** Where it is mounted. */
  readonly path: string
  /** Length of the log now, bytes: an instant in the disk's history. */
  now(): number
  /** Unmounts the disk and reads what was recorded, which is there until this is disposed. */
  finish(): Promise<Recording>
}

export async function recordDisk(filesystem: Filesystem): Promise<RecordedDisk> {
  await using undo = new AsyncDisposableStack()
  // In memory, since a sync of the disk's file takes its time on a real one and tells nothing.
  const space = undo.use(await mountSmallDisk(2 * MEBIBYTES))
  const at = (name: string): string => path.join(space.path, name)
  const [data, log, disk, place] = [at('data'), at('log'), at('disk'), at('m')]
  const sizeBytes = MEBIBYTES * 1024 ** 2
  for (const file of [data, log, disk]) await writeFile(file, '')
  await truncate(data, sizeBytes)
  await mkdir(place)

  const mounted = new AsyncDisposableStack()
  undo.use(mounted)
  const recorder = spawn(process.execPath, [path.join(import.meta.dirname, 'recorder.ts'), disk, data, log], { stdio: 'inherit' })
  const hasEnded = (): boolean => recorder.exitCode !== null || recorder.signalCode !== null
  mounted.defer(async () => {
    // Unmounting ends it, unless it never came to mounting.
    if ((await run('umount', [disk])).code !== 0) recorder.kill()
    if (!hasEnded()) await once(recorder, 'exit')
  })
  await until('the recorder has mounted its disk', () => hasEnded() || statSync(disk).size === sizeBytes)
  if (hasEnded()) throw new Error('the recorder has ended: what it said is above')
  const loop = (await succeed('losetup', ['--find', '--show', disk])).trim()
  mounted.defer(async () => {
    await succeed('losetup', ['--detach', loop])
    await until(`${loop} is free`, () => !existsSync(path.join('/sys/block', path.basename(loop), 'loop/backing_file')))
  })
  const { make, options } = filesystems[filesystem]
  const [tool, ...args] = make
  await succeed(tool, [...args, loop])
  await succeed('mount', ['-t', filesystem, '-o', options, loop, place])
  mounted.defer(() => unmount(place))

  const owned = undo.move()
  return {
    path: place,
    now: () => statSync(log).size,
    async finish() {
      await mounted.disposeAsync()
      return { filesystem, sizeBytes, log, epochs: readLog(log) }
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** Mounts an image by a loop device of its own. Disposing unmounts it. */
export async function mountImage(filesystem: Filesystem, image: string, place: string): Promise<AsyncDisposable> {
  await succeed('mount', ['-t', filesystem, '-o', `loop,${filesystems[filesystem].options}`, image, place])
  return { [Symbol.asyncDispose]: () => unmount(place) }
}

async function unmount(place: string): Promise<void> {
  await succeed('umount', [place])
}

async function succeed(program: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(program, args)
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} failed: ${stderr}`)
  return stdout
}
