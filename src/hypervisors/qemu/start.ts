// Starts QEMU processes: cold, or from a memory image. A start that fails leaves no process and no socket, and says what QEMU said.

import path from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { HypemanError } from '../../api/errors.ts'
import { applyDiffs } from '../../files/memory-image/image.ts'
import { removeFile } from '../../files/stage.ts'
import { findMapping } from '../../files/memory-image/private-pages.ts'
import { messageOf } from '../../platform/flow.ts'
import { listenOn } from '../../platform/listening-socket.ts'
import { spawnDetached } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import type { MachineSpec } from '../driver.ts'
import { replacedProgram } from '../versions.ts'
import { listenToLog, startFailure } from '../vmm-log.ts'
import { qemuArguments, qemuFiles, type QemuLaunch } from './command-line.ts'
import { emptyLayerOver, joinLayers, lastLayer, removeLayersAbove, writableLayer } from './layers.ts'
import { QemuMachine } from './machine.ts'
import { checkedManifest, createColdMemory, forgetMemory, stateFile } from './memory.ts'

export interface QemuProgram {
  readonly command: string
  readonly machineType: QemuLaunch['machineType']
  readonly accelerator: QemuLaunch['accelerator']
  readonly tscKhz?: number | undefined
  /** Cold machines get memory that can be saved while they run: the kernel tells QEMU what a guest writes meanwhile (userfaultfd). */
  readonly live?: boolean | undefined
  readonly whyNotLive?: string | undefined
}

/** Where a process inherits the device state. */
const incoming = 'fd:3'

/** Descriptor of the first file that a child inherits. */
const FIRST_INHERITED = 3
/** Connections that may wait for QEMU to take them. */
const CONTROL_QUEUE = 4

/** Until a process with incoming state has read it, in milliseconds. */
const LOAD_LIMIT_MS = 30_000

/** Among so many of its last lines QEMU says why it does not start. */
const MOST_LINES = 100

/** `version` is what the process must be, by its own word: what is recorded as the writer of its memory. */
export async function startCold(program: QemuProgram, spec: MachineSpec, version: string, signal: AbortSignal): Promise<QemuMachine> {
  await removeSockets(spec.directory)
  if (program.live === true) await forgetMemory(spec.directory)
  const memoryFile = program.live === true ? undefined : await createColdMemory(spec.directory, spec.memoryMib * 1024 ** 2)
  await joinLayers(spec.directory, lastLayer(spec.directory), signal)
  const systemLayer = await writableLayer(spec.directory)
  return launch(spec, { ...program, memoryFile, systemLayer }, program.command, [], async (machine) => {
    await machine.runState(signal)
    await expectVersion(machine, version)
  })
}

async function expectVersion(machine: QemuMachine, version: string): Promise<void> {
  const here = await machine.version()
  if (here !== version) throw replacedProgram('QEMU', here, version)
}

/** The process comes up paused, with memory, devices and disks of the image's instant. */
export async function startFromImage(program: QemuProgram, spec: MachineSpec, version: string, signal: AbortSignal): Promise<QemuMachine> {
  await removeSockets(spec.directory)
  const image = await checkedManifest(spec.directory)
  if (image.ramBytes !== spec.memoryMib * 1024 ** 2)
    throw new HypemanError(
      'conflict',
      `the memory image has ${image.ramBytes} bytes, the instance ${spec.memoryMib} MiB; start it from its disks`,
    )
  const systemLayer = await emptyLayerOver(spec.directory, image.lastLayer)
  const hasDiffs = image.diffs.length > 0
  const started = { ...program, memoryFile: image.base, systemLayer, incoming: hasDiffs ? 'defer' : incoming } as const
  try {
    return await launch(spec, started, program.command, [path.join(spec.directory, stateFile)], async (machine) => {
      if (hasDiffs) {
        // Devices look into guest memory when their state is loaded (virtio rings hold indices), so memory comes first.
        await machine.runState(signal)
        const mapping = await findMapping(machine.process.pid, new RegExp(`^${image.base.replace('.', '\\.')}$`), image.ramBytes)
        await applyDiffs(
          image.diffs.map((name) => path.join(spec.directory, name)),
          mapping,
        )
        await machine.command('migrate-incoming', { uri: incoming }, signal)
      }
      await loaded(machine, signal)
      await expectVersion(machine, version)
    })
  } catch (error) {
    await removeLayersAbove(spec.directory, image.lastLayer)
    throw error
  }
}

/** Waits until QEMU has read the incoming state. */
async function loaded(machine: QemuMachine, signal: AbortSignal): Promise<void> {
  const deadline = AbortSignal.timeout(LOAD_LIMIT_MS)
  const limit = AbortSignal.any([signal, deadline])
  for (;;) {
    const state = await machine.runState(limit).catch((error: unknown) => {
      if (signal.aborted || !deadline.aborted) throw error
      throw new HypemanError('host_unavailable', `QEMU did not take over the memory image within ${LOAD_LIMIT_MS / 1000} s`, {
        cause: error,
      })
    })
    if (state === 'paused' || state === 'prelaunch') return
    if (state !== 'inmigrate') throw new HypemanError('conflict', `QEMU could not take over the memory image: it is ${state}`)
    await delay(1, undefined, { signal: limit })
  }
}

async function launch(
  spec: MachineSpec,
  options: QemuLaunch,
  command: string,
  inherit: readonly string[],
  whenStarted: (machine: QemuMachine) => Promise<void>,
): Promise<QemuMachine> {
  socketPath(spec.directory, qemuFiles.agent)
  // Connecting to it waits for QEMU: looking again and again whether it is there would take processor time from what it waits for.
  using control = listenOn(socketPath(spec.directory, qemuFiles.qmp), CONTROL_QUEUE)
  const logFile = path.join(spec.directory, qemuFiles.vmm)
  const said = listenToLog(logFile)
  const machine = new QemuMachine(
    await spawnDetached({
      command,
      args: qemuArguments(spec, { ...options, controlFd: FIRST_INHERITED + inherit.length }),
      cwd: spec.directory,
      logFile,
      inherit,
      descriptors: [control.fd],
      // The memory of one that goes on is a file, which has none; the zeros of those of its translated code took a tenth of a fork's processor time, and a guest that works
      // on is as fast (±1 %, November 2026).
      hugePages: options.incoming === undefined,
    }),
    spec.directory,
  )
  try {
    await whenStarted(machine)
    return machine
  } catch (error) {
    await machine.kill()
    await removeSockets(spec.directory)
    throw explain(error, await said(MOST_LINES), spec)
  }
}

async function removeSockets(directory: string): Promise<void> {
  for (const name of [qemuFiles.qmp, qemuFiles.agent]) await removeFile(path.join(directory, name))
}

/** The error in terms of what QEMU wrote to its log since the start. */
function explain(error: unknown, lines: readonly string[], spec: MachineSpec): unknown {
  const said = lines.join('\n')
  if (said === '') return error
  const port = /Could not set up host forwarding rule '(\w+):([^']*?):(\d+)-:\d+'/.exec(said)
  if (port !== null)
    return new HypemanError(
      'port_in_use',
      `the ${port[1] ?? ''} port ${port[3] ?? ''} on ${port[2] ?? ''} is taken; choose another host_port, or 0 for a free one`,
      { cause: error },
    )
  const address = /Invalid host forwarding rule '\w+:(\S+):\d+-:\d+' \(Bad host address\)/.exec(said)
  if (address !== null)
    return new HypemanError(
      'invalid_request',
      `this QEMU can't publish ports on ${address[1] ?? ''}; publish them on an IPv4 address of the host`,
      { cause: error },
    )
  return startFailure(error, `QEMU could not start ${spec.instanceId}: ${lines.slice(-3).join('; ')} (${messageOf(error)})`)
}
