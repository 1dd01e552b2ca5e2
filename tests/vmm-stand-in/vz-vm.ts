// The virtual machine of a VZ helper: its states, what is refused in which (vz/PROTOCOL.md), and the guest on QEMU. A saved state is one file, as the framework's is: the guest's memory, sparse, behind
// it the devices, and at the end what the framework compares: the machine identifier and the devices' shape.

import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { appendFile, lstat, open, readFile, rm, truncate } from 'node:fs/promises'
import path from 'node:path'
import { copyPayload } from '../../src/files/copy.ts'
import {
  PROTOCOL,
  states,
  type AnswerOf,
  type Configuration,
  type Operation,
  type RefusalCode,
  type RequestOf,
  type VzState,
} from '../../src/hypervisors/vz/protocol.ts'
import { isMissing } from '../../src/files/tree.ts'
import { startGuest, type Guest, type GuestDescription } from './guest.ts'
import { openVsock, type VsockBridge } from './vsock-bridge.ts'

export class Refusal extends Error {
  readonly code: RefusalCode

  constructor(code: RefusalCode, message: string) {
    super(message)
    this.code = code
  }
}

export interface VzVmOptions {
  readonly macos: string
  /** Why machines can't be saved, if they can't. */
  readonly unsavable: string | null
  /** Its guests have no kernel: real devices, disk and memory, but only a firmware that finds nothing to start. */
  readonly isBare: boolean
  readonly end: (code: number) => void
}

export interface VzVm {
  /** Returns the answer's content, or undefined if it has none. A `Refusal` is one. */
  handle(operation: Operation, body: unknown): Promise<unknown>
  /** Ends the guest and the process. */
  end(): void
}

/** In which states an operation is allowed; the others are in all. */
const allowed: Readonly<Partial<Record<Operation, readonly VzState[]>>> = {
  'vm.create': ['Empty'],
  'vm.boot': ['Created'],
  'vm.restore': ['Created'],
  'vm.pause': ['Running'],
  'vm.resume': ['Paused'],
  'vm.snapshot': ['Paused'],
  'vm.balloon': ['Running', 'Paused'],
  'vm.power-button': ['Running'],
  'vm.shutdown': states.filter((state) => state !== 'Empty'),
}

const agentPort = 'org.hypeman.agent.0'
const logPort = 'org.hypeman.log.0'

interface Machine {
  readonly configuration: Configuration
  readonly machineIdentifier: string
}

export function openVm({ macos, unsavable, isBare, end }: VzVmOptions): VzVm {
  let state: VzState = 'Empty'
  let machine: Machine | undefined
  let guest: Guest | undefined
  let vsock: VsockBridge | undefined
  let balloonTargetBytes: number | null = null

  const made = (): Machine => {
    if (machine === undefined) throw new Refusal('wrong_state', 'there is no machine')
    return machine
  }
  const running = (): Guest => {
    if (guest === undefined) throw new Refusal('wrong_state', 'the machine does not run')
    return guest
  }
  const begin = async (meanwhile: VzState, then: VzState, start: (machine: Machine) => Promise<Guest>): Promise<undefined> => {
    const what = made()
    state = meanwhile
    const started = await start(what)
    guest = started
    void started.ended.then((how) => end(how === 'gone' ? 1 : 0))
    balloonTargetBytes = what.configuration.memoryBytes
    state = then
    return undefined
  }

  const handlers: { readonly [O in Operation]: (body: RequestOf<O>) => Promise<AnswerOf<O>> } = {
    'vmm.ping': async () => ({ protocol: PROTOCOL, macos, pid: process.pid }),
    'vm.info': async () => ({
      state,
      configuration: machine?.configuration ?? null,
      machineIdentifier: machine?.machineIdentifier ?? null,
      saveRestore: unsavable,
      balloonTargetBytes,
    }),
    async 'vm.create'({ configuration, machineIdentifier = randomBytes(48).toString('base64') }) {
      await demandFiles(configuration)
      if (existsSync(configuration.vsockSocket))
        throw new Refusal('bad_request', `${configuration.vsockSocket} is there already: remove it first`)
      if (configuration.network !== null) throw new Refusal('not_supported', 'the stand-in has no network')
      vsock = await openVsock(configuration.vsockSocket, () => (state === 'Running' ? guest : undefined))
      machine = { configuration, machineIdentifier }
      state = 'Created'
      return { machineIdentifier, saveRestore: unsavable }
    },
    'vm.boot': async () => begin('Starting', 'Running', ({ configuration }) => startGuest(descriptionOf(configuration, !isBare))),
    'vm.restore': async ({ file }) => begin('Restoring', 'Paused', (what) => load(what, file)),
    async 'vm.pause'() {
      state = 'Pausing'
      await running().pause()
      state = 'Paused'
    },
    /** Answered before the guest goes on, as the helper does. */
    async 'vm.resume'() {
      const paused = running()
      state = 'Resuming'
      setImmediate(() => {
        paused.resume().then(
          () => (state = 'Running'),
          () => (state = 'Error'),
        )
      })
    },
    async 'vm.snapshot'({ file }) {
      if (unsavable !== null) throw new Refusal('not_supported', unsavable)
      if (existsSync(file)) throw new Refusal('bad_request', `${file} is there already: a saved state replaces no file`)
      state = 'Saving'
      try {
        await save(made(), running(), file)
      } catch (error) {
        await rm(file, { force: true })
        if (error instanceof Error && 'code' in error && error.code === 'ENOSPC')
          throw new Refusal('no_space', `no space left to write ${file}`)
        throw new Refusal('failed', `the state could not be saved: ${String(error)}`)
      } finally {
        state = 'Paused'
      }
    },
    async 'vm.balloon'({ targetBytes }) {
      if (targetBytes > made().configuration.memoryBytes || targetBytes % 1024 ** 2 !== 0)
        throw new Refusal('bad_request', 'targetBytes must be whole mebibytes, at most all of memory')
      balloonTargetBytes = targetBytes
    },
    async 'vm.power-button'() {
      await running().powerButton()
    },
    'vm.shutdown': async () => void (state = 'Stopping'),
    'vmm.shutdown': async () => undefined,
  }

  return {
    async handle(operation, body) {
      const where = allowed[operation]
      if (where !== undefined && !where.includes(state))
        throw new Refusal('wrong_state', `${operation} is not allowed in the state ${state}, only in ${where.join(', ')}`)
      const handler: (body: never) => Promise<unknown> = handlers[operation]
      return handler(body as never)
    },
    end() {
      vsock?.close()
      const ended = guest === undefined ? Promise.resolve() : guest.kill()
      void ended.then(() => end(0))
    },
  }
}

async function demandFiles({ kernel, initrd, disks }: Configuration): Promise<void> {
  for (const file of [kernel, initrd, ...disks.map((disk) => disk.path)]) {
    const stats = await lstat(file).catch((error: unknown) => {
      if (isMissing(error)) return undefined
      throw error
    })
    if (stats === undefined) throw new Refusal('bad_request', `${file} does not exist`)
  }
}

/** The framework's console is a virtio console; QEMU's is a serial port, which the kernel knows by another name. */
function descriptionOf(configuration: Configuration, boots: boolean): GuestDescription {
  const { vcpus, memoryBytes, kernel, initrd, commandLine, disks, consoleLog, appLog } = configuration
  return {
    vcpus,
    memoryMib: memoryBytes / 1024 ** 2,
    ...(boots
      ? {
          boot: {
            kernel,
            initrd,
            commandLine: commandLine.replace('console=hvc0', 'console=ttyS0 panic=-1 reboot=t no_timer_check tsc=reliable'),
          },
        }
      : {}),
    disks: disks.map(({ id, path: file, readOnly }) => ({ path: file, readOnly, serial: id })),
    console: path.resolve(consoleLog),
    ports: [agentPort],
    outputs: [{ name: logPort, file: appLog }],
  }
}

/** What the framework compares, in place of its own. */
interface Trailer {
  readonly machineIdentifier: string
  readonly shape: string
  readonly memoryBytes: number
  readonly deviceBytes: number
}

/** Bytes at the end of a state that say how long the trailer before them is. */
const LENGTH_BYTES = 4

function shapeOf({ vcpus, memoryBytes, disks, network }: Configuration): string {
  return JSON.stringify([vcpus, memoryBytes, disks.map(({ id, readOnly }) => [id, readOnly]), network])
}

async function save({ configuration, machineIdentifier }: Machine, guest: Guest, file: string): Promise<void> {
  const devicesFile = `${file}.devices.tmp`
  try {
    await guest.memory.saveAll(file)
    await guest.saveDevices(devicesFile)
    const devices = await readFile(devicesFile)
    const { memoryBytes } = configuration
    const trailer: Trailer = { machineIdentifier, shape: shapeOf(configuration), memoryBytes, deviceBytes: devices.length }
    const text = Buffer.from(JSON.stringify(trailer))
    const length = Buffer.alloc(LENGTH_BYTES)
    length.writeUInt32BE(text.length)
    await appendFile(file, Buffer.concat([devices, text, length]))
  } finally {
    await rm(devicesFile, { force: true })
  }
}

async function load({ configuration, machineIdentifier }: Machine, file: string): Promise<Guest> {
  const incompatible = (what: string): Refusal =>
    new Refusal('failed', `VZErrorDomain 12: the machine can't be restored: invalid argument (${what})`)
  if (!existsSync(file)) throw new Refusal('bad_request', `${file} does not exist`)
  const { size } = await lstat(file)
  const at = async (offset: number, length: number): Promise<Buffer> => {
    await using handle = await open(file, 'r')
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.max(0, length)), 0, Math.max(0, length), Math.max(0, offset))
    return buffer.subarray(0, bytesRead)
  }
  const tail = await at(size - LENGTH_BYTES, LENGTH_BYTES)
  const textBytes = tail.length === LENGTH_BYTES ? tail.readUInt32BE() : 0
  let trailer: Trailer
  try {
    trailer = JSON.parse((await at(size - LENGTH_BYTES - textBytes, textBytes)).toString('utf8')) as Trailer
  } catch {
    throw incompatible('this is no saved state')
  }
  if (trailer.machineIdentifier !== machineIdentifier) throw incompatible('another machine identifier')
  if (trailer.shape !== shapeOf(configuration)) throw incompatible('other devices')
  const devices = await at(trailer.memoryBytes, trailer.deviceBytes)
  // QEMU maps a file of just the memory's size; it is gone when nobody has it open any more.
  const memoryFile = `machine.${process.pid}.tmp`
  try {
    await copyPayload(file, memoryFile, { durable: false })
    await truncate(memoryFile, trailer.memoryBytes)
    return await startGuest(descriptionOf(configuration, false), { memoryFile, devices })
  } catch (error) {
    throw new Refusal('failed', `the state could not be restored: ${String(error)}`)
  } finally {
    await rm(memoryFile, { force: true })
  }
}
