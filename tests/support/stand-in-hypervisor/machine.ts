// A process of the stand-in as a `Machine`, and how one is started.

import { once } from 'node:events'
import { readFile, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import path from 'node:path'
import type { Duplex } from 'node:stream'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { z } from 'zod'
import { HypemanError } from '../../../src/api/errors.ts'
import type { Machine, MachineSize, MachineSpec, MachineStatus } from '../../../src/hypervisors/driver.ts'
import { killProcess, spawnDetached, type DetachedProcess, type ProcessEnd, type ProcessIdentity } from '../../../src/platform/process.ts'
import { diskName, diskNumber, imageName, readManifest, removeImage } from './files.ts'

export const sockets = { control: 'control.sock', agent: 'agent.sock' } as const

/** Until a started process must listen, and until one must have answered, in milliseconds. */
const ANSWER_LIMIT_MS = 10_000
/** Nothing tells that a process listens: it is tried this often, in milliseconds. */
const LISTENS_POLL_MS = 2

const controlAnswer = z.object({
  status: z.enum(['running', 'paused']),
  disk: z.string(),
  error: z.string().optional(),
  balloon: z.number().default(0),
  size: z.object({ vcpus: z.number(), memory: z.number() }),
})

type Request =
  | { readonly do: 'balloon'; readonly bytes: number }
  | { readonly do: 'grow'; readonly size: { readonly vcpus: number; readonly memory: number } }
  | { readonly do: 'status' | 'pause' | 'resume' | 'power' }
  | { readonly do: 'save'; readonly file: string }

export class StandInMachine implements Machine {
  readonly process: ProcessIdentity
  readonly exited: Promise<ProcessEnd>
  readonly directory: string
  #channel: Socket | undefined

  constructor(process: DetachedProcess, directory: string) {
    this.process = process.identity
    this.exited = process.exited
    this.directory = directory
  }

  async status(signal?: AbortSignal): Promise<MachineStatus> {
    return (await this.ask({ do: 'status' }, signal)).status
  }

  /** Number of the disk that the process writes to, by its own word. */
  async disk(): Promise<number> {
    const { disk } = await this.ask({ do: 'status' })
    const number = diskNumber(disk)
    if (number === undefined) throw new Error(`the process writes to ${disk}`)
    return number
  }

  async pause(): Promise<void> {
    await this.ask({ do: 'pause' })
  }

  /** An image of this very process is dropped first: a guest never runs on a disk that an image calls frozen. */
  async resume(): Promise<void> {
    const image = await readManifest(this.directory)
    if (image?.savedBy?.pid === this.process.pid && image.savedBy.startTicks === this.process.startTicks) await removeImage(this.directory)
    await this.ask({ do: 'resume' })
  }

  async powerButton(): Promise<void> {
    await this.ask({ do: 'power' })
  }

  /** Writes the memory of the paused guest to a new file. */
  async save(file: string): Promise<void> {
    await this.ask({ do: 'save', file })
  }

  /** What the guest has given back of its memory, in bytes. */
  async balloon(signal: AbortSignal): Promise<number> {
    return (await this.ask({ do: 'status' }, signal)).balloon
  }

  /** A guest of this kind gives at once. */
  async fillBalloon(bytes: number, signal: AbortSignal): Promise<void> {
    await this.ask({ do: 'balloon', bytes }, signal)
  }

  async size(signal: AbortSignal): Promise<MachineSize> {
    const { vcpus, memory } = (await this.ask({ do: 'status' }, signal)).size
    return { vcpus, memoryMib: memory }
  }

  async grow({ vcpus, memoryMib }: MachineSize, signal: AbortSignal): Promise<void> {
    await this.ask({ do: 'grow', size: { vcpus, memory: memoryMib } }, signal)
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
    const socket = connect({ path: path.join(this.directory, sockets.agent), allowHalfOpen: false })
    this.#channel = socket
    await once(socket, 'connect', { signal }).catch((error: unknown) => {
      socket.destroy()
      signal.throwIfAborted()
      throw error
    })
    return socket
  }

  async ask(request: Request, signal?: AbortSignal): Promise<z.infer<typeof controlAnswer>> {
    const limit = AbortSignal.timeout(ANSWER_LIMIT_MS)
    const socket = connect({
      path: path.join(this.directory, sockets.control),
      signal: signal === undefined ? limit : AbortSignal.any([signal, limit]),
    })
    socket.end(`${JSON.stringify(request)}\n`)
    const said = await text(socket).catch((cause: unknown) => {
      signal?.throwIfAborted()
      throw new HypemanError('host_unavailable', `the stand-in in ${this.directory} does not answer`, { cause })
    })
    if (said === '') throw new HypemanError('host_unavailable', `the stand-in in ${this.directory} has ended`)
    const answer = controlAnswer.parse(JSON.parse(said))
    if (answer.error?.includes('no space left') === true)
      throw new HypemanError('storage_full', `no space left to ${request.do} the stand-in in ${this.directory}`)
    if (answer.error?.includes('read-only file system') === true)
      throw new HypemanError('storage_unsuitable', `the stand-in in ${this.directory} is on a read-only filesystem`)
    if (answer.error?.includes('no room') === true)
      throw new HypemanError('conflict', `the stand-in could not ${request.do}: ${answer.error}`)
    if (answer.error !== undefined) throw new Error(`the stand-in could not ${request.do}: ${answer.error}`)
    return answer
  }
}

/** Starts a process on a disk; with `incoming` it goes on from the memory image of that number, and comes up paused. */
export async function startMachine(
  program: string,
  spec: MachineSpec,
  disk: number,
  signal: AbortSignal,
  incoming?: number,
): Promise<StandInMachine> {
  await removeSockets(spec.directory)
  const [image, ...volumes] = spec.disks
  const { largest = spec } = spec
  const attached = [
    ...(image === undefined ? [] : ['-read', image.path]),
    ...volumes.flatMap((volume) => [volume.readOnly ? '-read' : '-write', volume.path]),
  ]
  const args = [
    '-name',
    `hypeman-${spec.instanceId}`,
    '-disk',
    diskName(disk),
    ...['-vcpus', String(spec.vcpus), '-memory', String(spec.memoryMib)],
    ...['-most-vcpus', String(largest.vcpus), '-most-memory', String(largest.memoryMib)],
    ...attached,
    ...(incoming === undefined ? [] : ['-incoming']),
  ]
  const logFile = path.join(spec.directory, 'logs', 'vmm.log')
  const inherit = incoming === undefined ? [] : [path.join(spec.directory, imageName(incoming))]
  const machine = new StandInMachine(await spawnDetached({ command: program, args, cwd: spec.directory, logFile, inherit }), spec.directory)
  try {
    await listens(machine, signal)
    return machine
  } catch (error) {
    await machine.kill()
    await removeSockets(spec.directory)
    const said = (await readFile(logFile, 'utf8')).trim().split('\n').at(-1) ?? ''
    throw said === '' ? error : new HypemanError('host_unavailable', `the stand-in could not start: ${said}`, { cause: error })
  }
}

async function listens(machine: StandInMachine, signal: AbortSignal): Promise<void> {
  const ended = new AbortController()
  machine.exited.then(
    (exit) => ended.abort(new HypemanError('host_unavailable', `the stand-in ended: ${exit.reason}`)),
    () => undefined, // `exited` never rejects
  )
  const limit = AbortSignal.any([signal, ended.signal, AbortSignal.timeout(ANSWER_LIMIT_MS)])
  for (;;) {
    const answer = await machine.ask({ do: 'status' }, limit).catch(() => undefined) // it does not listen yet, or never will: the limit tells
    if (answer !== undefined) return
    limit.throwIfAborted()
    await delay(LISTENS_POLL_MS)
  }
}

async function removeSockets(directory: string): Promise<void> {
  await Promise.all(Object.values(sockets).map((name) => rm(path.join(directory, name), { force: true })))
}
