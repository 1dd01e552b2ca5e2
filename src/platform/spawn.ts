// Starts a process without copying this one: posix_spawn(3). Node forks, which copies the page tables of a server of some hundred megabytes and has each page that
// it touches next copied, too: five hundred page faults for each of fifty forks made at once, and fifteen now (November 2026).

import { accessSync, closeSync, constants, openSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { getSystemErrorName } from 'node:util'
import koffi from 'koffi'

/** Flags of posix_spawnattr_setflags; spawn.h of glibc. */
const SETSIGDEF = 0x04
const SETSIGMASK = 0x08
const SETSID = 0x80
/** More than these have on any architecture; in bytes. */
const ATTRIBUTES_BYTES = 512
const ACTIONS_BYTES = 256
const SIGSET_BYTES = 128

const WNOHANG = 1

// Justification: Node has no other way to start a process than to fork itself.
// Safety: glibc reads what it is given during the call alone; the structures are larger than it needs. The calling thread waits until the program runs, as with fork.
interface Calls {
  readonly spawn: (
    pid: Int32Array,
    program: string,
    actions: Buffer,
    attributes: Buffer,
    args: readonly (string | null)[],
    env: readonly (string | null)[],
  ) => number
  readonly waitpid: (pid: number, status: Int32Array, options: number) => number
  readonly initActions: (actions: Buffer) => number
  readonly dup2: (actions: Buffer, from: number, to: number) => number
  readonly closeFrom: (actions: Buffer, fd: number) => number
  readonly chdir: (actions: Buffer, directory: string) => number
  readonly freeActions: (actions: Buffer) => number
  readonly initAttributes: (attributes: Buffer) => number
  readonly setFlags: (attributes: Buffer, flags: number) => number
  readonly setDefaults: (attributes: Buffer, signals: Buffer) => number
  readonly fillSignals: (signals: Buffer) => number
}
let bound: Calls | undefined
function bind(): Calls {
  if (bound !== undefined) return bound
  const c = koffi.load(null)
  bound = {
    spawn: c.func(
      'int posix_spawn(int *pid, const char *program, const void *actions, const void *attributes, const char **args, const char **env)',
    ) as Calls['spawn'],
    waitpid: c.func('int waitpid(int pid, int *status, int options)') as Calls['waitpid'],
    initActions: c.func('int posix_spawn_file_actions_init(void *actions)') as Calls['initActions'],
    dup2: c.func('int posix_spawn_file_actions_adddup2(void *actions, int from, int to)') as Calls['dup2'],
    closeFrom: c.func('int posix_spawn_file_actions_addclosefrom_np(void *actions, int from)') as Calls['closeFrom'],
    chdir: c.func('int posix_spawn_file_actions_addchdir_np(void *actions, const char *directory)') as Calls['chdir'],
    freeActions: c.func('int posix_spawn_file_actions_destroy(void *actions)') as Calls['freeActions'],
    initAttributes: c.func('int posix_spawnattr_init(void *attributes)') as Calls['initAttributes'],
    setFlags: c.func('int posix_spawnattr_setflags(void *attributes, short flags)') as Calls['setFlags'],
    setDefaults: c.func('int posix_spawnattr_setsigdefault(void *attributes, const void *signals)') as Calls['setDefaults'],
    fillSignals: c.func('int sigfillset(void *signals)') as Calls['fillSignals'],
  }
  return bound
}

/** How a process ended: one of them is null. */
export interface Ended {
  readonly code: number | null
  readonly signal: string | null
}

export interface Spawned {
  readonly pid: number
  /** Never rejects. */
  readonly exited: Promise<Ended>
}

export interface Spawn {
  /** A path, or a name that is looked for along the PATH in `env`. */
  readonly command: string
  readonly args: readonly string[]
  readonly cwd: string
  readonly env: Readonly<Record<string, string>>
  /** Become its descriptors 1, 2, 3, …; its standard input is empty. It inherits no others. */
  readonly descriptors: readonly number[]
}

/** Starts a process in a session of its own, with no signal blocked or ignored. Throws as Node does, with the system's `code`. */
export function spawnSession({ command, args, cwd, env, descriptors }: Spawn): Spawned {
  const calls = bind()
  const program = programOf(command, env['PATH'] ?? '')
  const [actions, attributes, all] = [Buffer.alloc(ACTIONS_BYTES), Buffer.alloc(ATTRIBUTES_BYTES), Buffer.alloc(SIGSET_BYTES)]
  const demand = (result: number): void => {
    if (result !== 0) throw systemError(result, `spawn ${command}`)
  }
  demand(calls.fillSignals(all))
  demand(calls.initAttributes(attributes)) // its mask of blocked signals is empty
  demand(calls.setFlags(attributes, SETSIGDEF | SETSIGMASK | SETSID))
  demand(calls.setDefaults(attributes, all))
  demand(calls.initActions(actions))
  using held = new DisposableStack()
  held.defer(() => calls.freeActions(actions))
  const nothing = held.adopt(openSync('/dev/null', 'r'), closeSync)
  demand(calls.chdir(actions, cwd))
  // First out of the way of each other: a descriptor that is to become another's number must not be overwritten before it is used.
  const sources = [nothing, ...descriptors]
  const free = Math.max(...sources, sources.length) + 1
  for (const [index, from] of sources.entries()) demand(calls.dup2(actions, from, free + index))
  for (const index of sources.keys()) demand(calls.dup2(actions, free + index, index))
  demand(calls.closeFrom(actions, sources.length))
  // Before there is anything that could end unheard.
  if (running.size === 0) process.on('SIGCHLD', reap)
  const pid = new Int32Array(1)
  const failure = calls.spawn(
    pid,
    program,
    actions,
    attributes,
    [command, ...args, null],
    [...Object.entries(env).map(([name, value]) => `${name}=${value}`), null],
  )
  if (failure === 0) return { pid: pid[0] ?? -1, exited: endOf(pid[0] ?? -1) }
  if (running.size === 0) process.off('SIGCHLD', reap)
  throw systemError(failure, `spawn ${command}`)
}

/** Who waits for the end of each process that was started here. */
const running = new Map<number, (ended: Ended) => void>()

function endOf(pid: number): Promise<Ended> {
  const { promise, resolve } = Promise.withResolvers<Ended>()
  running.set(pid, resolve)
  return promise
}

/** Some child has ended. Node's own are left to it. */
function reap(): void {
  const status = new Int32Array(1)
  for (const [pid, resolve] of running) {
    const found = bind().waitpid(pid, status, WNOHANG)
    if (found === 0) continue
    running.delete(pid)
    resolve(found === pid ? endedBy(status[0] ?? 0) : { code: null, signal: null })
  }
  if (running.size === 0) process.off('SIGCHLD', reap)
}

/** wait(2): the signal is in the lower seven bits, the code in the eight above. */
function endedBy(status: number): Ended {
  const signal = status & 0x7f
  if (signal === 0) return { code: (status >> 8) & 0xff, signal: null }
  const name = Object.entries(os.constants.signals).find(([, number]) => number === signal)?.[0]
  return { code: null, signal: name ?? `signal ${signal}` }
}

function programOf(command: string, search: string): string {
  if (command.includes('/')) return command
  for (const directory of search.split(':')) {
    const program = path.join(directory, command)
    try {
      accessSync(program, constants.X_OK)
      return program
    } catch {
      // it is not there: looked for in the next
    }
  }
  throw systemError(os.constants.errno.ENOENT, `spawn ${command}`)
}

/** As Node's own. */
function systemError(errno: number, what: string): Error {
  const code = getSystemErrorName(-errno)
  return Object.assign(new Error(`${what} ${code}`), { code, errno: -errno, syscall: what })
}
