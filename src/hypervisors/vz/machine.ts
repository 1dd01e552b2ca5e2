// A helper's process as a `Machine`: its status, its end, its agent channel.

import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'
import { killProcess, type DetachedProcess, type ProcessEnd, type ProcessIdentity } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { connectVsock } from '../../platform/vsock-socket.ts'
import type { Machine, MachineStatus } from '../driver.ts'
import { diskNumber, isDiskBelow } from '../raw-disks.ts'
import { ask, type AskOptions } from './client.ts'
import { vzFiles } from './configuration.ts'
import { holdsImage, removeImage } from './image.ts'
import { systemDisk, type AnswerOf, type Configuration, type Operation, type RequestOf, type VzState } from './protocol.ts'

/** States of the framework's machine in the contract's terms. */
const statusOf = {
  Empty: 'created',
  Created: 'created',
  Starting: 'created',
  Restoring: 'created',
  Running: 'running',
  Resuming: 'paused',
  Pausing: 'paused',
  Paused: 'paused',
  Saving: 'paused',
  Stopping: 'shutdown',
  Shutdown: 'shutdown',
  Error: 'shutdown',
} as const satisfies Record<VzState, MachineStatus>

/** Port of the guest's vsock that the agent listens on. */
const AGENT_PORT = 1024

/** A resumed machine runs a moment later: it is looked at this often, for at most so long, in milliseconds. */
const RESUME_POLL_MS = 25
const RESUME_LIMIT_MS = 10_000

/** What a machine is, by its helper's word. */
export interface Described {
  readonly configuration: Configuration
  readonly machineIdentifier: string
  /** Number of the disk that it writes to. */
  readonly disk: number
}

export class VzMachine implements Machine {
  readonly directory: string
  readonly exited: Promise<ProcessEnd>
  readonly process: ProcessIdentity
  #channel: Socket | undefined

  constructor(process: DetachedProcess, directory: string) {
    this.process = process.identity
    this.exited = process.exited
    this.directory = directory
  }

  async status(signal?: AbortSignal): Promise<MachineStatus> {
    return statusOf[(await this.info(signal)).state]
  }

  async pause(): Promise<void> {
    const { state } = await this.info()
    // It can be paused once it runs, and would go on otherwise.
    if (state === 'Resuming') await this.#untilRunning()
    if (state === 'Resuming' || statusOf[state] !== 'paused') await this.ask('vm.pause', undefined)
  }

  /** An image of this process in its directory is dropped first: a guest never runs on a disk that an image calls frozen. */
  async resume(): Promise<void> {
    if ((await this.status()) === 'running') return
    // Not the image that the process was started from, whose disk lies below the process's own.
    if (holdsImage(this.directory) && !(await isDiskBelow(this.directory, (await this.described()).disk))) await removeImage(this.directory)
    await this.ask('vm.resume', undefined)
    await this.#untilRunning()
  }

  /** The helper answers before the guest goes on. */
  async #untilRunning(): Promise<void> {
    const deadline = performance.now() + RESUME_LIMIT_MS
    for (;;) {
      const { state } = await this.info()
      if (state === 'Running') return
      if (state !== 'Resuming' && state !== 'Paused')
        throw new HypemanError(
          'host_unavailable',
          `the guest did not go on: the VZ helper says that it is ${state}; stop and start the instance`,
        )
      if (performance.now() > deadline)
        throw new HypemanError(
          'host_unavailable',
          `the guest is still ${state} ${RESUME_LIMIT_MS / 1000} s after it was told to go on; stop and start the instance`,
        )
      await delay(RESUME_POLL_MS)
    }
  }

  async powerButton(): Promise<void> {
    await this.ask('vm.power-button', undefined)
  }

  async kill(): Promise<void> {
    this.release()
    await killProcess(this.process)
    await this.exited
  }

  release(): void {
    this.#channel?.destroy()
  }

  async openAgentChannel(signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted()
    this.#channel?.destroy()
    const socket = await connectVsock(socketPath(this.directory, vzFiles.vsock), AGENT_PORT, signal)
    // Another caller may have opened one meanwhile: the last one stays.
    this.#channel?.destroy()
    this.#channel = socket
    return socket
  }

  info(signal?: AbortSignal): Promise<AnswerOf<'vm.info'>> {
    return this.ask('vm.info', undefined, { signal })
  }

  async described(): Promise<Described> {
    const { configuration, machineIdentifier } = await this.info()
    const disk = configuration?.disks.find(({ id }) => id === systemDisk)?.path
    const number = disk === undefined ? undefined : diskNumber(disk)
    if (configuration !== null && machineIdentifier !== null && number !== undefined)
      return { configuration, machineIdentifier, disk: number }
    throw new HypemanError(
      'host_unavailable',
      `the VZ helper does not name the system disk of ${this.directory}; stop and start the instance`,
    )
  }

  /** Asks the helper; one that is gone, or goes before it has answered, is an error. */
  async ask<O extends Operation>(operation: O, body: RequestOf<O>, options: AskOptions = {}): Promise<AnswerOf<O>> {
    try {
      return await ask(socketPath(this.directory, vzFiles.control), operation, body, options)
    } catch (cause) {
      options.signal?.throwIfAborted()
      if (cause instanceof HypemanError) throw cause
      throw new HypemanError(
        'host_unavailable',
        `the VZ helper in ${this.directory} can't be asked ${operation} (${messageOf(cause)}); it may just have ended`,
        {
          cause,
        },
      )
    }
  }
}
