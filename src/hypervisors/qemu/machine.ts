// A QEMU process as a `Machine`: its control connection, its status, its end, its agent channel.

import { connect } from 'node:net'
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { HypemanError } from '../../api/errors.ts'
import { killProcess, type DetachedProcess, type ProcessEnd, type ProcessIdentity } from '../../platform/process.ts'
import type { Machine, MachineStatus } from '../driver.ts'
import { qemuFiles } from './command-line.ts'
import { QmpClient } from './qmp.ts'

const queryStatus = z.object({ status: z.string() })

/** Run states of QEMU (qapi/run-state.json) in the contract's terms; those not named here are pauses. */
const statusOf: Readonly<Record<string, MachineStatus>> = {
  running: 'running',
  prelaunch: 'created',
  shutdown: 'shutdown',
  'guest-panicked': 'shutdown',
  'internal-error': 'shutdown',
  watchdog: 'shutdown',
}

/** Longest path of a unix socket on Linux: sun_path less its final zero; unix(7). */
const LONGEST_SOCKET_PATH = 107

export class QemuMachine implements Machine {
  readonly directory: string
  readonly exited: Promise<ProcessEnd>
  readonly process: ProcessIdentity
  #qmp: Promise<QmpClient> | undefined
  #channel: Duplex | undefined

  constructor(process: DetachedProcess, directory: string) {
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

  async resume(): Promise<void> {
    await this.command('cont')
  }

  async powerButton(): Promise<void> {
    await this.command('system_powerdown')
  }

  async kill(): Promise<void> {
    this.release()
    await killProcess(this.process)
    await this.exited
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

  /** Runs a QMP command over the one control connection, which is opened when it is first needed, or was lost. */
  async command(name: string, args: Readonly<Record<string, unknown>> = {}, signal?: AbortSignal): Promise<unknown> {
    const qmp = await this.#connection()
    return qmp.execute(name, args, signal)
  }

  async openAgentChannel(signal: AbortSignal): Promise<Duplex> {
    signal.throwIfAborted()
    this.#channel?.destroy()
    const socket = connect({ path: socketPath(this.directory, qemuFiles.agent), allowHalfOpen: false })
    const abort = (): void => void socket.destroy(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
    signal.addEventListener('abort', abort, { once: true })
    try {
      await once(socket, 'connect')
    } finally {
      signal.removeEventListener('abort', abort)
    }
    this.#channel = socket
    return socket
  }

  async #connection(): Promise<QmpClient> {
    const known = await this.#qmp?.catch(() => undefined) // a failed attempt is made again
    if (known !== undefined && !known.closed) return known
    const connecting = connectQmp(this)
    this.#qmp = connecting
    return connecting
  }
}

/** Connects as soon as QEMU listens; fails when the process ends first. */
async function connectQmp(machine: QemuMachine): Promise<QmpClient> {
  const file = socketPath(machine.directory, qemuFiles.qmp)
  const gone = new AbortController()
  machine.exited.then(
    (exit) => gone.abort(new HypemanError('host_unavailable', `QEMU ended: ${exit.reason}`)),
    () => undefined, // `exited` never rejects
  )
  const limit = AbortSignal.timeout(CONNECT_LIMIT_MS)
  const signal = AbortSignal.any([gone.signal, limit])
  try {
    for (;;) {
      const qmp = await QmpClient.connect(file, signal).catch((error: unknown) => {
        if (isNotListening(error)) return undefined
        throw error
      })
      if (qmp !== undefined) return qmp
      await delay(LISTENS_POLL_MS, undefined, { signal })
    }
  } catch (error) {
    gone.signal.throwIfAborted()
    if (!limit.aborted) throw error
    throw new HypemanError('host_unavailable', `QEMU did not answer on its control socket within ${CONNECT_LIMIT_MS / 1000} s`, {
      cause: error,
    })
  }
}

/** Nothing tells that a process listens: it is tried this often, in milliseconds. */
const LISTENS_POLL_MS = 2

/** Until a started QEMU listens on its control socket, in milliseconds. */
const CONNECT_LIMIT_MS = 10_000

function isNotListening(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ECONNREFUSED')
}

/** A socket's absolute path, checked against the kernel's limit before anything is made. */
export function socketPath(directory: string, name: string): string {
  const file = path.join(directory, name)
  if (Buffer.byteLength(file) > LONGEST_SOCKET_PATH)
    throw new HypemanError(
      'storage_unsuitable',
      `the socket path ${file} is longer than ${LONGEST_SOCKET_PATH} bytes; use a data directory with a shorter path`,
    )
  return file
}
