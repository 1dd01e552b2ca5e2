// A QEMU process as a `Machine`: its control connection, its status, its end, its agent channel.

import { connect } from 'node:net'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import path from 'node:path'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { killProcess, type DetachedProcess, type ProcessEnd, type ProcessIdentity } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import type { Machine, MachineStatus } from '../driver.ts'
import { qemuFiles, systemDisk } from './command-line.ts'
import { layerNumber } from './layers.ts'
import { holdsImage, readWholeManifest, removeImage } from './memory.ts'
import type { QmpClient } from './qmp.ts'
import { connectQmp, orAbort } from './sockets.ts'

const queryStatus = z.object({ status: z.string() })
const queryBlock = z.array(z.object({ device: z.string(), inserted: z.object({ file: z.string(), 'node-name': z.string() }).optional() }))

/** Run states of QEMU (qapi/run-state.json) in the contract's terms; those not named here are pauses. */
const statusOf: Readonly<Record<string, MachineStatus>> = {
  running: 'running',
  prelaunch: 'created',
  shutdown: 'shutdown',
  'guest-panicked': 'shutdown',
  'internal-error': 'shutdown',
  watchdog: 'shutdown',
}

/** Until QEMU must have answered a command, in milliseconds: `stop` waits for the guest's writes to reach the disk. */
const ANSWER_LIMIT_MS = 60_000

/** Of a machine that this driver has made. */
export function asQemu(machine: Machine): QemuMachine {
  if (machine instanceof QemuMachine) return machine
  throw new TypeError('the machine is of another driver')
}

export class QemuMachine implements Machine {
  directory: string
  readonly exited: Promise<ProcessEnd>
  readonly process: ProcessIdentity
  /** The directory may hold an image of this very process: it was just saved, or another server process may have saved it. */
  mayBeSaved: boolean
  #qmp: Promise<QmpClient> | undefined
  #channel: Duplex | undefined

  constructor(process: DetachedProcess, directory: string, mayBeSaved = false) {
    this.mayBeSaved = mayBeSaved
    this.process = process.identity
    this.exited = process.exited
    this.directory = directory
  }

  async status(signal?: AbortSignal): Promise<MachineStatus> {
    return statusOf[await this.runState(signal)] ?? 'paused'
  }

  /** QEMU's own name of the state. */
  async runState(signal?: AbortSignal): Promise<string> {
    return queryStatus.parse(await this.command('query-status', {}, signal)).status
  }

  async pause(): Promise<void> {
    await this.command('stop')
  }

  /** An image of this process in its directory is dropped first: a guest never runs on disks that an image calls frozen. */
  async resume(): Promise<void> {
    if (this.mayBeSaved) await this.#dropOwnImage()
    await this.command('cont')
  }

  /** Not the image that the process was started from: over that one it has a layer of its own. */
  async #dropOwnImage(): Promise<void> {
    if (holdsImage(this.directory)) {
      // A damaged one can't be restored anyway.
      const image = await readWholeManifest(this.directory)
      if (image === undefined || image.lastLayer === (await this.activeLayer()).number) await removeImage(this.directory, image?.mapped)
    }
    this.mayBeSaved = false
  }

  /** The layer of the system disk that QEMU writes to, by its own word, whatever else lies in the directory. */
  async activeLayer(): Promise<{ readonly node: string; readonly number: number }> {
    const disks = queryBlock.parse(await this.command('query-block'))
    const inserted = disks.find(({ device }) => device === systemDisk)?.inserted
    const number = inserted === undefined ? undefined : layerNumber(path.basename(inserted.file))
    if (inserted !== undefined && number !== undefined) return { node: inserted['node-name'], number }
    throw new HypemanError(
      'host_unavailable',
      `QEMU does not name a layer of the system disk in ${this.directory}; stop and start the instance`,
    )
  }

  /** QEMU's version, as `--version` gives it. */
  async version(): Promise<string> {
    return (await this.#connection()).version
  }

  async powerButton(): Promise<void> {
    await this.command('system_powerdown')
  }

  async kill(): Promise<void> {
    this.release()
    await killProcess(this.process)
    await this.exited
  }

  /** QEMU itself opens files by names relative to its working directory, which goes with the directory. */
  moved(directory: string): void {
    this.directory = directory
  }

  release(): void {
    this.#channel?.destroy()
    const connecting = this.#qmp
    this.#qmp = undefined
    connecting?.then(
      (qmp) => qmp.close(),
      () => undefined, // it never was a connection
    )
  }

  /**
   * Runs a QMP command over the one control connection, which is opened when it is first needed, or was lost. A QEMU that does not answer in
   * time is an error; so is an abort, and in both cases the command may still take effect. `descriptor` goes with it.
   */
  async command(name: string, args: Readonly<Record<string, unknown>> = {}, signal?: AbortSignal, descriptor?: number): Promise<unknown> {
    const limit = AbortSignal.timeout(ANSWER_LIMIT_MS)
    const either = signal === undefined ? limit : AbortSignal.any([signal, limit])
    try {
      const qmp = await orAbort(this.#connection(), either)
      return await qmp.execute(name, args, either, descriptor)
    } catch (error) {
      if (!limit.aborted || signal?.aborted === true) throw error
      throw new HypemanError('host_unavailable', `QEMU did not answer ${name} within ${ANSWER_LIMIT_MS / 1000} s`, { cause: error })
    }
  }

  /** Begins to wait for an event, whose time (`performance.now()`) is the result's. */
  async awaitEvent(name: string): Promise<{ readonly at: Promise<number> }> {
    return { at: (await this.#connection()).nextEvent(name) }
  }

  async openAgentChannel(signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted()
    this.#channel?.destroy()
    const socket = connect({ path: socketPath(this.directory, qemuFiles.agent), allowHalfOpen: false })
    this.#channel = socket
    const abort = (): void => void socket.destroy(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
    signal.addEventListener('abort', abort, { once: true })
    try {
      await once(socket, 'connect')
    } finally {
      signal.removeEventListener('abort', abort)
    }
    return socket
  }

  /** QEMU takes one connection at a time, so all callers share one. */
  async #connection(): Promise<QmpClient> {
    const known = this.#qmp
    if (known !== undefined) {
      const qmp = await known.catch(() => undefined) // a failed attempt is made again
      if (qmp !== undefined && !qmp.closed) return qmp
      if (this.#qmp !== known) return this.#connection() // another caller has begun already
    }
    const connecting = connectQmp(this.directory, this.exited)
    this.#qmp = connecting
    return connecting
  }
}
