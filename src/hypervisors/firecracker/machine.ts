// A Firecracker process as a `Machine`.

import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'
import { killProcess, type DetachedProcess, type ProcessEnd, type ProcessIdentity } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { socketName, type SocketName } from '../../platform/socket-name.ts'
import { connectVsock } from '../../platform/vsock-socket.ts'
import type { Machine, MachineStatus } from '../driver.ts'
import { followLog, type LogFollower } from '../workload-log.ts'
import { ask, type Ask } from './api.ts'
import { firecrackerFiles } from './files.ts'
import { jailedSocket, nameInJail, removeFromJail, removeJail, takeFromJail, type Jail } from './jail.ts'
import { dropOwnImage, forgetCount, forgetCountAtOnce } from './memory.ts'

const info = z.object({ state: z.enum(['Not started', 'Running', 'Paused']) })
const statusOf = { 'Not started': 'created', Running: 'running', Paused: 'paused' } as const satisfies Record<string, MachineStatus>

/** Ports of the guest agent (guest/protocol.md, sections 1 and 5). */
const vsockPorts = { agent: 1024, log: 1025 } as const
/** How long the end of a process waits for what it said last to be in the log, in milliseconds. */
const LOG_LIMIT_MS = 2_000

interface WrittenFile {
  /** By which the process is told of it. */
  readonly name: string
  /** Puts there what the process has written. */
  done(): Promise<void>
  /** Removes what it has written elsewhere, if it has. */
  undo(): Promise<void>
}

interface Known {
  /** What its process runs in; absent: in none. */
  readonly jail?: Jail | undefined
  /** The directory may hold an image of this very process. */
  readonly mayBeSaved?: boolean
}

/** Those that live: nothing in their directories tells it. */
const jailed = new Set<FirecrackerMachine>()

/** True if a process in a jail runs in the directory. */
export function hasJailedIn(directory: string): boolean {
  return [...jailed].some((machine) => machine.directory === directory)
}

export class FirecrackerMachine implements Machine {
  directory: string
  readonly process: ProcessIdentity
  readonly exited: Promise<ProcessEnd>
  /** The directory may hold an image of this very process: it was just saved, or another server process may have saved it. */
  mayBeSaved: boolean
  readonly #jail: Jail | undefined
  #log: LogFollower | undefined
  /** Where the log begins when the machine runs. */
  #logAfter: number | undefined
  #ended = false
  #channel: Duplex | undefined

  constructor(process: DetachedProcess, directory: string, { jail, mayBeSaved = false }: Known = {}) {
    this.process = process.identity
    this.exited = process.exited
    this.directory = directory
    this.mayBeSaved = mayBeSaved
    this.#jail = jail
    if (jail !== undefined) jailed.add(this)
    process.exited
      .then(() => {
        this.#ended = true
        jailed.delete(this)
        jail?.[Symbol.dispose]()
        forgetCountAtOnce(this.directory)
      })
      .catch(() => undefined) // what can't be removed here is tried again by `kill`, or by the next start
  }

  /** False once its end was heard of. */
  get lives(): boolean {
    return !this.#ended
  }

  /** Begins to bring the program's output to the log. `after`: what is there already; undefined if the log tells. */
  followLog(after: number | undefined): void {
    const connect = (signal: AbortSignal): Promise<Socket> => this.#connect(vsockPorts.log, signal)
    this.#log = followLog({ directory: () => this.directory, after, connect, ended: this.exited })
  }

  /** For one connection. */
  socket(name: string): SocketName {
    return this.#jail === undefined ? socketName(socketPath(this.directory, name)) : jailedSocket(this.process.pid, name)
  }

  async #connect(port: number, signal: AbortSignal): Promise<Socket> {
    using vsock = this.socket(firecrackerFiles.vsock)
    return await connectVsock(vsock.path, port, signal)
  }

  /** A file that the process is to write, which is not there yet. */
  writes(file: string): WrittenFile {
    const jail = this.#jail
    if (jail === undefined) return { name: file, done: () => Promise.resolve(), undo: () => Promise.resolve() }
    return {
      name: nameInJail(file),
      done: () => takeFromJail(this.directory, jail, file),
      undo: () => removeFromJail(this.directory, file),
    }
  }

  /** The same for a machine that is loaded and may stay paused for long: until it runs there is nobody to ask. */
  followLogOnceResumed(after: number): void {
    this.#logAfter = after
  }

  /** Bytes of the program's output that are in the log. */
  get logged(): number {
    return this.#log?.offset ?? this.#logAfter ?? 0
  }

  /** Until what it said last is in the log: nobody then writes to the directory any more. */
  async #logged(): Promise<void> {
    if (this.#log === undefined) return
    await Promise.race([this.#log.done, delay(LOG_LIMIT_MS, undefined, { ref: false })])
    this.#log.stop()
  }

  async status(signal?: AbortSignal): Promise<MachineStatus> {
    return statusOf[info.parse(await this.ask({ method: 'GET', path: '/', signal })).state]
  }

  /** A process that is gone, or goes before it has answered, is an error that says so. */
  async ask(request: Ask): Promise<unknown> {
    try {
      using api = this.socket(firecrackerFiles.api)
      return await ask(api.path, request)
    } catch (cause) {
      request.signal?.throwIfAborted()
      if (cause instanceof HypemanError) throw cause
      throw new HypemanError(
        'host_unavailable',
        `Firecracker in ${this.directory} can't be asked ${request.method} ${request.path} (${messageOf(cause)}); it may just have ended`,
        { cause },
      )
    }
  }

  async pause(): Promise<void> {
    await this.ask({ method: 'PATCH', path: '/vm', body: { state: 'Paused' } })
  }

  /** An image of this process in its directory is dropped first: a guest never runs on disks that an image calls frozen. */
  async resume(): Promise<void> {
    if (this.mayBeSaved) await dropOwnImage(this.directory)
    this.mayBeSaved = false
    await this.ask({ method: 'PATCH', path: '/vm', body: { state: 'Resumed' } })
    if (this.#logAfter !== undefined) this.followLog(this.#logAfter)
    this.#logAfter = undefined
  }

  /** The nearest that there is, on x86-64: the guest's kernel is told that somebody pressed Ctrl-Alt-Del. */
  async powerButton(): Promise<void> {
    await this.ask({ method: 'PUT', path: '/actions', body: { action_type: 'SendCtrlAltDel' } })
  }

  async kill(): Promise<void> {
    this.#channel?.destroy()
    await killProcess(this.process)
    await this.exited
    await this.#logged()
    await forgetCount(this.directory)
    if (this.#jail !== undefined) await removeJail(this.directory)
  }

  /** All that Firecracker has to do with in its directory is open by now, or named relatively. */
  moved(directory: string): void {
    this.directory = directory
    // A connection that is being made may look for the socket where it was.
    this.#log?.reconnect()
  }

  release(): void {
    this.#channel?.destroy()
    this.#log?.stop()
  }

  async openAgentChannel(signal: AbortSignal): Promise<Duplex> {
    this.#channel?.destroy()
    const gone = new AbortController()
    void this.exited.then(({ reason }) => gone.abort(new Error(`Firecracker ended: ${reason}`)))
    const channel = await this.#connect(vsockPorts.agent, AbortSignal.any([signal, gone.signal]))
    this.#channel = channel
    return channel
  }

  /** A snapshot ends the guest's side of all connections, and tells this side nothing: they are ended here, and opened again by whoever needs them. */
  dropConnections(): void {
    this.#channel?.destroy()
    this.#log?.reconnect()
  }
}
