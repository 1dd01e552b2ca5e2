// What the filesystem of the data directory can do, by doing it on small files that are gone afterwards.

import { constants, readFileSync } from 'node:fs'
// oxlint-disable-next-line no-restricted-imports -- with COPYFILE_FICLONE_FORCE it clones or fails, and never copies
import { access, copyFile, link, mkdtemp, open, rm, stat, statfs, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../api/errors.ts'
import { diskErrors } from './disk-error.ts'
import { found, lacking, reasonOf, type Probe, type Wording } from './probe.ts'

const otherFilesystem = 'put the data directory (--data-dir, DATA_DIR) on ext4, XFS or btrfs'

const wordings = {
  writable: {
    name: 'data directory',
    essential: true,
    good: 'instances, images and snapshots are kept there',
    bad: 'nothing can be kept',
    fix: 'choose a data directory that this user can write (--data-dir, DATA_DIR)',
  },
  space: {
    name: 'free space',
    essential: false,
    good: 'enough for images and a few machines',
    bad: 'images and machines will not fit for long',
    fix: 'free space, or move the data directory (--data-dir, DATA_DIR)',
  },
  sparse: {
    name: 'sparse files',
    essential: true,
    good: 'disks and memory take only what guests have written',
    bad: 'each disk and memory file would take its full size',
    fix: otherFilesystem,
  },
  links: {
    name: 'hard links',
    essential: true,
    good: 'snapshots and forks share files that never change',
    bad: 'snapshots and forks cannot share files',
    fix: otherFilesystem,
  },
  reflink: {
    name: 'reflink',
    essential: false,
    good: 'disks of any size are copied at once',
    bad: 'snapshots and forks of disks go through layers and sparse copies instead of instant clones',
    fix: 'put the data directory on XFS or btrfs',
  },
  sockets: {
    name: 'socket paths',
    essential: true,
    good: 'sockets of instances fit below the data directory',
    bad: 'sockets of instances cannot be made there',
    fix: 'choose a data directory with a shorter path',
  },
} as const satisfies Record<string, Wording>

export async function probeStorage(dataDir: string): Promise<Probe[]> {
  const place = await nearestExisting(path.resolve(dataDir))
  const sockets = probeSocketPaths(path.resolve(dataDir))
  let scratch: string
  try {
    await access(place, constants.W_OK | constants.X_OK)
    scratch = await mkdtemp(path.join(place, '.hypeman-probe-'))
  } catch (error) {
    return [lacking(wordings.writable, `${place}: ${reasonOf(error)}`), sockets]
  }
  try {
    const writable = found(wordings.writable, place === path.resolve(dataDir) ? place : `${path.resolve(dataDir)} can be made`)
    return [
      writable,
      await probeSpace(scratch),
      await probeSparse(scratch),
      await probeLinks(scratch),
      await probeReflink(scratch),
      sockets,
    ]
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
}

/**
 * `storage_unsuitable` if the filesystem of an existing directory lacks what nothing works without. For the start of the server: `hypeman doctor`
 * looks at more. `storage_full` if there is no room to find out.
 */
export async function refuseUnsuitable(directory: string): Promise<void> {
  const probes = await diskErrors(directory, async () => {
    const scratch = await mkdtemp(path.join(directory, '.hypeman-probe-'))
    try {
      return [await probeSparse(scratch), await probeLinks(scratch)]
    } finally {
      await rm(scratch, { recursive: true, force: true })
    }
  })
  const lacks = probes.filter(({ ok }) => !ok)
  if (lacks.length > 0) throw unsuitable(directory, filesystemOf(directory), lacks)
}

/** The error for a filesystem that lacks something essential. */
export function unsuitable(directory: string, filesystem: string, lacks: readonly Probe[]): HypemanError {
  const words = lacks.map(({ name, value, means }) => `no ${name} (${value}): ${means}`)
  return new HypemanError('storage_unsuitable', `${directory} is on ${filesystem}, which keeps ${words.join('; and ')}; ${otherFilesystem}`)
}

/** Kind of the filesystem that a path lies on: `ext4`. proc(5), `/proc/<pid>/mountinfo`: the fifth field is the mount point, the kind follows the dash. */
export function filesystemOf(directory: string): string {
  if (process.platform !== 'linux') return 'an unknown filesystem'
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .flatMap((line) => {
      const [, point, kind] = /^\S+ \S+ \S+ \S+ (\S+) .*? - (\S+) /.exec(line) ?? []
      return point === undefined || kind === undefined ? [] : [{ point: point.replaceAll('\\040', ' '), kind }]
    })
  const holding = mounts.filter(({ point }) => point === '/' || directory === point || directory.startsWith(`${point}/`))
  // The last of the longest: later mounts cover earlier ones.
  return holding.toSorted((one, other) => one.point.length - other.point.length).at(-1)?.kind ?? 'an unknown filesystem'
}

// A data directory that is not there yet is judged by where it would be made.
async function nearestExisting(directory: string): Promise<string> {
  const there = await stat(directory).then(
    (stats) => stats.isDirectory(),
    () => false,
  )
  return there || path.dirname(directory) === directory ? directory : nearestExisting(path.dirname(directory))
}

const gib = 1024 ** 3
const enoughBytes = 4 * gib

async function probeSpace(scratch: string): Promise<Probe> {
  const { bavail, bsize } = await statfs(scratch)
  const value = `${((bavail * bsize) / gib).toFixed(1)} GiB`
  return bavail * bsize >= enoughBytes ? found(wordings.space, value) : lacking(wordings.space, value)
}

async function probeSparse(scratch: string): Promise<Probe> {
  const file = path.join(scratch, 'sparse')
  await using handle = await open(file, 'w')
  await handle.write(Buffer.alloc(4096, 1), 0, 4096, 64 * 1024 ** 2 - 4096)
  await handle.sync()
  const { blocks } = await handle.stat()
  const value = `64 MiB with 4 KiB of data takes ${(blocks * 512) / 1024} KiB`
  return blocks * 512 < 1024 ** 2 ? found(wordings.sparse, value) : lacking(wordings.sparse, value)
}

async function probeLinks(scratch: string): Promise<Probe> {
  const file = path.join(scratch, 'linked')
  await writeFile(file, 'x')
  try {
    await link(file, `${file}-again`)
  } catch (error) {
    return lacking(wordings.links, `not kept (${reasonOf(error)})`)
  }
  const { nlink } = await stat(file)
  return nlink === 2 ? found(wordings.links, 'kept') : lacking(wordings.links, `a file with two names counts ${nlink}`)
}

async function probeReflink(scratch: string): Promise<Probe> {
  const file = path.join(scratch, 'cloned')
  await writeFile(file, Buffer.alloc(64 * 1024, 1))
  try {
    await copyFile(file, `${file}-again`, constants.COPYFILE_FICLONE_FORCE)
    return found(wordings.reflink, 'kept')
  } catch (error) {
    return lacking(wordings.reflink, `not kept (${reasonOf(error)})`)
  }
}

/** Longest path of a socket, bytes: 108 in unix(7) with the closing zero, 104 on macOS. */
const longestSocketPath = process.platform === 'darwin' ? 103 : 107
/** Below the data directory: `instances/`, an id of 24 characters, and a file name. */
const socketSuffix = `/instances/${'i'.repeat(24)}/${'s'.repeat(16)}`

function probeSocketPaths(dataDir: string): Probe {
  const length = Buffer.byteLength(dataDir + socketSuffix)
  const value = `up to ${length} of ${longestSocketPath} bytes`
  return length <= longestSocketPath ? found(wordings.sockets, value) : lacking(wordings.sockets, value)
}
