// A Cloud Hypervisor process as a `Machine`: its API, its status, its end, its agent channel.

import { rmSync } from 'node:fs'
import type { Duplex } from 'node:stream'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { removeFile } from '../../files/stage.ts'
import { killProcess, type DetachedProcess, type ProcessEnd, type ProcessIdentity } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { connectVsock } from '../../platform/vsock-socket.ts'
import type { Machine, MachineStatus, Traffic } from '../driver.ts'
import { diskNumber, isDiskBelow } from '../raw-disks.ts'
import { vmmAt, VmmError, type Vmm, type VmInfo } from './api.ts'
import { trafficOf } from './counters.ts'
import { vmmFiles } from './files.ts'
import { holdsImage, removeImage } from './images.ts'
import { watchResets } from './resets.ts'
import { systemDisk } from './vm-config.ts'

/** Where the guest agent listens (guest/protocol.md). */
const AGENT_PORT = 1024

const statusOf: Readonly<Record<VmInfo['state'], MachineStatus>> = {
  Created: 'created',
  Running: 'running',
  Shutdown: 'shutdown',
  Paused: 'paused',
  BreakPoint: 'paused',
}

/** Of a machine that this driver has made. */
export function asCloudHypervisor(machine: Machine): CloudHypervisorMachine {
  if (machine instanceof CloudHypervisorMachine) return machine
  throw new TypeError('the machine is of another driver')
}

export class CloudHypervisorMachine implements Machine {
  readonly directory: string
  readonly exited: Promise<ProcessEnd>
  readonly process: ProcessIdentity
  readonly vmm: Vmm
  /** The directory may hold an image of this very process: it was just saved, or another server process may have saved it. */
  mayBeSaved: boolean
  readonly #gone = new AbortController()
  #channel: Duplex | undefined
  #resets: Disposable | undefined

  constructor(process: DetachedProcess, directory: string, mayBeSaved = false) {
    this.mayBeSaved = mayBeSaved
    this.process = process.identity
    this.exited = process.exited
    this.directory = directory
    this.vmm = vmmAt(socketPath(directory, vmmFiles.api), this.#gone.signal)
    process.exited
      .then(({ reason }) => {
        this.#resets?.[Symbol.dispose]()
        this.#gone.abort(new HypemanError('host_unavailable', `Cloud Hypervisor ended: ${reason}`))
        // At once, before anybody can start the next one here: of use to its process alone.
        rmSync(path.join(directory, vmmFiles.base), { force: true })
      })
      .catch(() => undefined) // what can't be removed here is tried again by `kill`, or by the next start
  }

  /** Ends the process when its guest resets the machine, as other VMMs do by themselves: it would be booted again, and nobody would know. Begins once the process listens. */
  endOnReset(): void {
    this.#resets = watchResets(path.join(this.directory, vmmFiles.events), () => {
      this.kill().catch(() => undefined) // a process that can't be killed is seen where it is ended for good
    })
  }

  async status(signal?: AbortSignal): Promise<MachineStatus> {
    const info = await this.vmm.info(signal)
    return info === undefined ? 'created' : statusOf[info.state]
  }

  async traffic(signal: AbortSignal): Promise<Traffic> {
    return trafficOf(await this.vmm.counters(signal))
  }

  async pause(): Promise<void> {
    await this.#bring('pause', 'paused')
  }

  /** An image of this process in its directory is dropped first: a guest never runs on a disk that an image calls frozen. */
  async resume(): Promise<void> {
    if (this.mayBeSaved) await this.#dropOwnImage()
    await this.#bring('resume', 'running')
  }

  /** The VMM refuses what is so already. */
  async #bring(command: 'pause' | 'resume', wanted: MachineStatus): Promise<void> {
    try {
      await this.vmm.command(command)
    } catch (error) {
      if (error instanceof VmmError && (await this.status()) === wanted) return
      throw error
    }
  }

  /** Not the image that the process was started from, whose disk lies below the process's own. */
  async #dropOwnImage(): Promise<void> {
    if (holdsImage(this.directory) && !(await isDiskBelow(this.directory, await this.disk()))) await removeImage(this.directory)
    this.mayBeSaved = false
  }

  /** Number of the disk that the process writes to, by its own word, whatever else lies in the directory. */
  async disk(): Promise<number> {
    const disks = (await this.vmm.info())?.config.disks ?? []
    const file = disks.find(({ id }) => id === systemDisk)?.path
    const number = typeof file === 'string' ? diskNumber(path.basename(file)) : undefined
    if (number !== undefined) return number
    throw new HypemanError(
      'host_unavailable',
      `Cloud Hypervisor does not name the system disk in ${this.directory}; stop and start the instance`,
    )
  }

  async powerButton(): Promise<void> {
    await this.vmm.command('power-button')
  }

  async kill(): Promise<void> {
    this.release()
    await killProcess(this.process)
    await this.exited
    // What it was restored from: of use to its process alone.
    await removeFile(path.join(this.directory, vmmFiles.base))
  }

  release(): void {
    this.#resets?.[Symbol.dispose]()
    this.#channel?.destroy()
  }

  /** Waits until the guest listens. */
  async openAgentChannel(signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted()
    this.#channel?.destroy()
    const either = AbortSignal.any([signal, this.#gone.signal])
    const channel = await connectVsock(socketPath(this.directory, vmmFiles.vsock), AGENT_PORT, either)
    this.#channel?.destroy() // of another caller meanwhile
    this.#channel = channel
    return channel
  }
}
