// Long-lived processes of ours that outlive the server (VMMs): start them detached, tell them apart from recycled pids, notice their end,
// and end them with proof. Short tools run through tool.ts.

import { closeSync, openSync, readFileSync } from 'node:fs'
import { readlink } from 'node:fs/promises'
import { constants } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../api/errors.ts'
import { withoutHugePages } from './huge-pages.ts'
import { jailedDirectory } from './jailed-directory.ts'
import { spawnSession, type Spawned } from './spawn.ts'

/** Identity of a process that survives recycling of pids: field 22 of `/proc/<pid>/stat` (clock ticks since boot) and the host's boot id. */
export interface ProcessIdentity {
  readonly pid: number
  readonly startTicks: string
  readonly bootId: string
}

/** How a process ended; `code` is null if a signal ended it, or nobody can tell. */
export interface ProcessEnd {
  readonly code: number | null
  readonly reason: string
}

export interface SpawnDetached {
  readonly command: string
  readonly args: readonly string[]
  readonly cwd: string
  /** Receives stdout and stderr; opened for appending. */
  readonly logFile: string
  /** Receives stdout instead; opened for appending. */
  readonly outputFile?: string
  /** Files that the child inherits, open for reading, as descriptors 3, 4, … */
  readonly inherit?: readonly string[]
  /** Open descriptors that the child inherits behind those. */
  readonly descriptors?: readonly number[]
  /** False: it gets no transparent huge pages. */
  readonly hugePages?: boolean
}

export interface DetachedProcess {
  readonly identity: ProcessIdentity
  /** Settles when the process is gone. Never rejects. */
  readonly exited: Promise<ProcessEnd>
}

/** Until a killed process must be gone, in milliseconds. */
const KILL_LIMIT_MS = 30_000
/** An adopted process has no parent here that would be told of its end: look at it this often, in milliseconds. */
const ADOPTED_POLL_MS = 100

/** Starts a process in its own session, with output to a file. It goes on when the server ends. `host_unavailable` for one that ends before it can be told from others. */
export async function spawnDetached(options: SpawnDetached): Promise<DetachedProcess> {
  const descriptors: number[] = []
  try {
    const log = openSync(options.logFile, 'a', 0o600)
    descriptors.push(log)
    const output = options.outputFile === undefined ? log : openSync(options.outputFile, 'a', 0o600)
    if (output !== log) descriptors.push(output)
    const inherited = (options.inherit ?? []).map((file) => {
      const descriptor = openSync(file, 'r')
      descriptors.push(descriptor)
      return descriptor
    })
    const start = (): Spawned =>
      spawnSession({
        command: options.command,
        args: options.args,
        cwd: options.cwd,
        descriptors: [output, log, ...inherited, ...(options.descriptors ?? [])],
        env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LANG: 'C.UTF-8' },
      })
    const { pid, exited: ended } = options.hugePages === false ? withoutHugePages(start) : start()
    const exited = ended.then(({ code, signal }) => ({
      code,
      reason: signal === null ? `exited with code ${code ?? 'unknown'}` : `killed by ${signal}`,
    }))
    const identity = identityOrKill(pid)
    if (identity !== undefined) return { identity, exited }
    const { reason } = await exited
    throw new HypemanError('host_unavailable', `${options.command} ended at once (${reason}); see ${options.logFile} for what it said`)
  } finally {
    for (const descriptor of descriptors) closeSync(descriptor)
  }
}

/** Of a child. One that can't be told from others later is not left running. */
function identityOrKill(pid: number): ProcessIdentity | undefined {
  try {
    return identityOf(pid)
  } catch (error) {
    process.kill(pid, constants.signals.SIGKILL) // it is not reaped yet, so the pid is its own
    throw error
  }
}

/**
 * Absolute and without links; undefined if the process is gone or not ours to look at. Of a process in a jail: the directory that the jail was made for (jailed-directory.ts), by the name
 * that is, or begins with, `known` where it has several.
 */
export async function workingDirectory(pid: number, known: string): Promise<string | undefined> {
  const directory = await readlink(`/proc/${pid}/cwd`).catch(() => undefined)
  return directory === '/' ? ((await jailedDirectory(pid, known)) ?? directory) : directory
}

/** Watches a process that another server process started; undefined if it is gone or the pid is another's by now. */
export function adoptProcess(identity: ProcessIdentity): DetachedProcess | undefined {
  if (!isAlive(identity)) return undefined
  return { identity, exited: watchEnd(identity) }
}

async function watchEnd(identity: ProcessIdentity): Promise<ProcessEnd> {
  while (mayBeAlive(identity)) await delay(ADOPTED_POLL_MS, undefined, { ref: false })
  return { code: null, reason: 'ended' }
}

/** Also true when nobody can tell just now: the next look will. */
export function mayBeAlive(identity: ProcessIdentity): boolean {
  try {
    return isAlive(identity)
  } catch {
    return true
  }
}

/** Who a pid is now; undefined if nobody, or a zombie. proc(5): field 22 of stat is the start time in clock ticks since boot. */
export function identityOf(pid: number): ProcessIdentity | undefined {
  const stat = readProc(`/proc/${pid}/stat`)
  if (stat === undefined) return undefined
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, startTicks] = [fields[0], fields[19]]
  if (startTicks === undefined || state === 'Z' || state === 'X') return undefined
  return { pid, startTicks, bootId: hostBootId() }
}

/** Processor time that a process has taken, in clock ticks (100 a second); undefined if it is gone or the host does not tell. proc(5): fields 14 and 15 of stat. */
export function cpuTicksOf(pid: number): number | undefined {
  const stat = readProc(`/proc/${pid}/stat`)
  if (stat === undefined) return undefined
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return Number(fields[11]) + Number(fields[12])
}

/** True while this very process lives. */
export function isAlive(identity: ProcessIdentity): boolean {
  const now = identityOf(identity.pid)
  return now !== undefined && now.startTicks === identity.startTicks && now.bootId === identity.bootId
}

/** Kills the process and waits until it is gone; a pid that is another's by now is left alone. */
export async function killProcess(identity: ProcessIdentity): Promise<void> {
  if (!isAlive(identity)) return
  try {
    process.kill(identity.pid, constants.signals.SIGKILL)
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error
  }
  const deadline = performance.now() + KILL_LIMIT_MS
  for (let wait = 1; isAlive(identity); wait = Math.min(wait * 2, 50)) {
    if (performance.now() > deadline) throw new Error(`the process ${identity.pid} is still there ${KILL_LIMIT_MS / 1000} s after SIGKILL`)
    await delay(wait)
  }
}

let bootId: string | undefined
function hostBootId(): string {
  bootId ??= readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
  return bootId
}

/** Undefined if there is no such process, or it ended while it was read. What else can't be read (no descriptor is left) says nothing of it, and is an error. */
function readProc(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ESRCH')) return undefined
    throw error
  }
}
