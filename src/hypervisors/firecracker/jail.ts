// A jail for a Firecracker process, made by Firecracker's own jailer; why it is made this way: docs/decisions/019-a-jail-in-memory.md.
// The process that becomes the jailer first gives itself a mount namespace. There a file system in memory is the place of the jail, and the files of the machine are mounted into it under the names
// that they have for a process without a jail. All of that goes with the process: what stays is a directory in that of the instance.

import { constants } from 'node:fs'
import { chmod, chown, mkdir, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import type { Binary } from '../../platform/binaries.ts'
import { isBelow, jailPlace } from '../../platform/jailed-directory.ts'
import { heldSocket, type SocketName } from '../../platform/socket-name.ts'
import { giveTap } from '../../platform/tap.ts'
import type { MachineSpec } from '../driver.ts'
import { diskFiles, firecrackerFiles } from './files.ts'

/** Users of jailed processes: numbers beyond those that people, services and containers get. */
const FIRST_UID = 0x7000_0000
const UIDS = 0x0800_0000
/** Room in memory for what the jailer puts into a jail: a copy of the program above all. */
const JAIL_SIZE = '64m'

/** What a process sees of its jail. */
export interface Jail extends Disposable {
  /** User and group, which no other process of this server has. */
  readonly uid: number
}

/** Users that processes of this server have. */
const taken = new Set<number>()

export function newJail(): Jail {
  for (;;) {
    const uid = FIRST_UID + Math.floor(Math.random() * UIDS)
    if (!taken.has(uid)) return jailOf(uid)
  }
}

/** The jail of a process that an earlier server started; undefined if it is in none. */
export async function jailOfProcess(pid: number): Promise<Jail | undefined> {
  const uid = Number(/^Uid:\t(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1])
  return uid >= FIRST_UID && uid < FIRST_UID + UIDS ? jailOf(uid) : undefined
}

function jailOf(uid: number): Jail {
  taken.add(uid)
  return { uid, [Symbol.dispose]: () => void taken.delete(uid) }
}

export interface Jailer extends Binary {
  /** Of the server. */
  readonly dataDirectory: string
}

export interface JailedStart {
  readonly jailer: Jailer
  readonly firecracker: Binary
  readonly spec: MachineSpec
  readonly jail: Jail
  /** Absolute paths of what the process reads besides disks; those in the machine's directory by their names in there. */
  readonly reads: readonly string[]
  /** For Firecracker. */
  readonly args: readonly string[]
}

/** Makes the files of a machine the jail's, and returns what to start instead of Firecracker, in the machine's directory. It becomes Firecracker: its pid stays. */
export async function jailedCommand(start: JailedStart): Promise<{ readonly command: string; readonly args: readonly string[] }> {
  const { jailer, firecracker, spec, jail, args } = start
  const [out, at] = [path.join(spec.directory, jailPlace.directory, jailPlace.out), path.join(spec.directory, jailPlace.directory, 'at')]
  await removeJail(spec.directory)
  for (const directory of [path.dirname(at), at, out]) await mkdir(directory, { mode: 0o700 })
  const mounts = mountsOf(start)
  for (const { source, isShared } of mounts) await (isShared ? letRead(source, jailer.dataDirectory) : give(source, jail))
  if (spec.network?.kind === 'tap') await giveTap(spec.network.device, jail.uid)
  const name = `hypeman-${spec.instanceId}`
  const exec = await realpath(firecracker.path)
  const root = path.join(at, path.basename(exec), name, 'root')
  const user = String(jail.uid)
  return {
    command: 'unshare',
    args: [
      ...['--mount', '--propagation', 'private', '--', 'sh', '-euc', script(at, root, mounts), name],
      ...[jailer.path, '--id', name, '--exec-file', exec, '--uid', user, '--gid', user, '--chroot-base-dir', at, '--', ...args],
    ],
  }
}

/** Where no process runs. */
export async function removeJail(directory: string): Promise<void> {
  await rm(path.join(directory, jailPlace.directory), { recursive: true, force: true })
}

interface JailMount {
  /** Absolute. */
  readonly source: string
  /** In the jail, from its root. */
  readonly name: string
  readonly isDirectory: boolean
  /** Others may read it, too: mounted read-only. */
  readonly isShared: boolean
}

function mountsOf({ spec, reads }: JailedStart): readonly JailMount[] {
  const own = (name: string): JailMount => ({ source: path.join(spec.directory, name), name, isDirectory: false, isShared: false })
  const shared = (file: string): JailMount => ({
    source: path.resolve(spec.directory, file),
    name: file,
    isDirectory: false,
    isShared: true,
  })
  const disks = spec.disks.map((disk) => ({ ...shared(disk.path), isShared: disk.readOnly }))
  const out = { ...own(path.join(jailPlace.directory, jailPlace.out)), name: jailPlace.out, isDirectory: true }
  const all = [out, own(diskFiles.live), own(firecrackerFiles.vmm), ...disks, ...reads.map(shared)]
  // The same file may be a disk twice; one that somebody may write to wins.
  return [...new Map(all.toSorted((one, other) => Number(other.isShared) - Number(one.isShared)).map((one) => [one.name, one])).values()]
}

/** A file that this process alone writes to. */
async function give(file: string, { uid }: Jail): Promise<void> {
  await chown(file, uid, uid)
}

/** A file that several processes read. Below the data directory nobody but root gets at it by its own path: directories there are root's alone. */
async function letRead(file: string, dataDirectory: string): Promise<void> {
  const { mode } = await stat(file)
  if ((mode & 0o004) !== 0) return
  if (!isBelow(file, dataDirectory))
    throw new HypemanError('host_unavailable', `a jailed Firecracker can't read ${file}; let others read it (chmod o+r)`)
  await chmod(file, (mode & 0o7777) | 0o004)
}

/** For sh: makes the place of the jail, mounts the files into it, and becomes what its arguments say. */
function script(at: string, root: string, mounts: readonly JailMount[]): string {
  const places = mounts.map(({ name, isDirectory }) => ({ place: path.join(root, name), isDirectory }))
  const directories = new Set(places.map(({ place, isDirectory }) => (isDirectory ? place : path.dirname(place))))
  const table = path.join(at, 'mounts')
  const lines = mounts.map(({ source, isShared, isDirectory }, index) => {
    const options = `bind,nosuid,nodev${isDirectory ? ',noexec' : ''}${isShared ? ',ro' : ''}`
    return `${tableField(source)} ${tableField(places[index]?.place ?? '')} none ${options} 0 0`
  })
  return [
    'umask 022',
    `mount -t tmpfs -o mode=0755,nosuid,size=${JAIL_SIZE} hypeman-jail ${quoted(at)}`,
    `mkdir -p -- ${[...directories].map(quoted).join(' ')}`,
    ...places.flatMap(({ place, isDirectory }) => (isDirectory ? [] : [`: >${quoted(place)}`])),
    `printf '%s\\n' ${lines.map(quoted).join(' ')} >${quoted(table)}`,
    `mount --all --fstab ${quoted(table)}`,
    'exec "$@"',
  ].join('\n')
}

function quoted(word: string): string {
  return `'${word.replaceAll("'", String.raw`'\''`)}'`
}

/** fstab(5): blanks, line ends and backslashes as octal numbers. */
function tableField(field: string): string {
  return field.replaceAll(/[\s\\]/g, (character) => `\\${(character.codePointAt(0) ?? 0).toString(8).padStart(3, '0')}`)
}

/** A socket that a process in a jail listens on. */
export function jailedSocket(pid: number, name: string): SocketName {
  return heldSocket(path.join(`/proc/${pid}/root`, name))
}

/** By what name a process in a jail writes a file that is to lie elsewhere. */
export function nameInJail(file: string): string {
  return path.join(jailPlace.out, path.basename(file))
}

function inJail(directory: string, file: string): string {
  return path.join(directory, jailPlace.directory, nameInJail(file))
}

/** Removes what a process in a jail has written, if it has. */
export async function removeFromJail(directory: string, file: string): Promise<void> {
  await rm(inJail(directory, file), { force: true })
}

/** Moves what a process in a jail has written out of it, to where it belongs: it must be a plain file of that process, without another name. */
export async function takeFromJail(directory: string, { uid }: Jail, file: string): Promise<void> {
  const written = inJail(directory, file)
  const notIt = (cause?: unknown): HypemanError =>
    new HypemanError(
      'host_unavailable',
      `${written} is not what Firecracker was to write; stop the instance, whose process is not to be trusted any more`,
      { cause },
    )
  {
    const flags = constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK
    await using handle = await open(written, flags).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'ELOOP' ? notIt(error) : error
    })
    const found = await handle.stat()
    if (!found.isFile() || found.nlink !== 1 || found.uid !== uid) throw notIt()
    await handle.chown(0, 0)
    await handle.chmod(0o600)
  }
  await rename(written, file)
}
