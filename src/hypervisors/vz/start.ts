// Starts helper processes: for a cold boot, or with a saved state. A start that fails leaves no process and no socket, and says what the helper said.

import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { messageOf } from '../../platform/flow.ts'
import { spawnDetached, type ProcessEnd } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { firstAnswer } from '../../platform/unix-http.ts'
import type { MachineSpec } from '../driver.ts'
import { diskOver, ownDisk, removeDisks } from '../raw-disks.ts'
import { listenToLog, startFailure } from '../vmm-log.ts'
import { ask } from './client.ts'
import { configurationOf, continued, memoryBytesOf, vzFiles } from './configuration.ts'
import { checkedManifest, discardImage, stateFile } from './image.ts'
import { VzMachine } from './machine.ts'
import { PROTOCOL } from './protocol.ts'
import { removeSockets } from './sockets.ts'

export interface VzProgram {
  /** Absolute path of the helper. */
  readonly command: string
  /** Until a started helper must answer on its socket, in milliseconds. */
  readonly startLimitMs?: number | undefined
}

const START_LIMIT_MS = 30_000

/** `version` is what the process must be, by its own word: what is recorded as the writer of its memory. */
export async function startCold(program: VzProgram, spec: MachineSpec, version: string, signal: AbortSignal): Promise<VzMachine> {
  demandSockets(spec)
  configurationOf(spec, 0) // what can't be run is refused before anything is touched
  await discardImage(spec.directory)
  const configuration = configurationOf(spec, await ownDisk(spec.directory, signal))
  return launch(program, spec, version, signal, async (machine) => {
    await machine.ask('vm.create', { configuration }, { signal })
    await machine.ask('vm.boot', undefined, { signal })
  })
}

/** The process comes up paused, with memory, devices and disks of the image's instant. */
export async function startFromImage(program: VzProgram, spec: MachineSpec, version: string, signal: AbortSignal): Promise<VzMachine> {
  demandSockets(spec)
  const { configuration: saved, machineIdentifier, disk: frozen } = await checkedManifest(spec.directory)
  const configuration = continued(saved, spec, frozen + 1)
  try {
    await diskOver(spec.directory, frozen, signal)
    return await launch(program, spec, version, signal, async (machine) => {
      await machine.ask('vm.create', { configuration, machineIdentifier }, { signal })
      await machine.ask('vm.restore', { file: stateFile }, { signal })
    })
  } catch (error) {
    await removeDisks(spec.directory, (number) => number > frozen)
    throw error
  }
}

async function launch(
  { command, startLimitMs = START_LIMIT_MS }: VzProgram,
  spec: MachineSpec,
  version: string,
  signal: AbortSignal,
  whenStarted: (machine: VzMachine) => Promise<void>,
): Promise<VzMachine> {
  const control = socketPath(spec.directory, vzFiles.control)
  await removeSockets(spec.directory)
  const logFile = path.join(spec.directory, vzFiles.vmm)
  const said = listenToLog(logFile)
  const args = ['--name', `hypeman-${spec.instanceId}`, '--socket', vzFiles.control]
  const machine = new VzMachine(await spawned({ command, args, cwd: spec.directory, logFile }), spec.directory)
  let ended: ProcessEnd | undefined
  const gone = new AbortController()
  void machine.exited.then((end) => {
    ended = end
    gone.abort(new HypemanError('host_unavailable', `the VZ helper ended: ${end.reason}`))
  })
  try {
    const { protocol, macos } = await firstAnswer((either, limitMs) => ask(control, 'vmm.ping', undefined, { signal: either, limitMs }), {
      name: 'the VZ helper',
      signal: AbortSignal.any([signal, gone.signal]),
      limitMs: startLimitMs,
    })
    if (protocol !== PROTOCOL) throw wrongVersion(`it speaks version ${protocol} of its protocol instead of ${PROTOCOL}`)
    if (macos !== version) throw wrongVersion(`it says that macOS is ${macos} now instead of ${version}`)
    await whenStarted(machine)
    return machine
  } catch (error) {
    const byItself = ended // and not by what follows
    await machine.kill()
    await removeSockets(spec.directory)
    signal.throwIfAborted()
    throw explain(error, byItself, await said(), spec)
  }
}

/** Before anything is made. */
function demandSockets({ directory }: MachineSpec): void {
  for (const name of [vzFiles.control, vzFiles.vsock]) socketPath(directory, name)
}

async function spawned(options: Parameters<typeof spawnDetached>[0]): ReturnType<typeof spawnDetached> {
  try {
    return await spawnDetached(options)
  } catch (cause) {
    throw new HypemanError(
      'host_unavailable',
      `the VZ helper ${options.command} can't be started (${messageOf(cause)}); build it (vz/build.sh)`,
      {
        cause,
      },
    )
  }
}

function wrongVersion(what: string): HypemanError {
  return new HypemanError('incompatible_version', `the VZ helper was replaced while the server ran: ${what}; try again`)
}

/** The error in terms of how the helper ended and what it wrote to its log since the start. */
function explain(error: unknown, ended: ProcessEnd | undefined, lines: readonly string[], spec: MachineSpec): unknown {
  const said = lines.length === 0 ? '' : `${lines.join('; ')} `
  const how = ended === undefined ? messageOf(error) : `the helper ended: ${ended.reason}`
  const memory = `${memoryBytesOf(spec) / 1024 ** 2} MiB`
  return startFailure(error, `VZ could not start ${spec.instanceId} (${spec.vcpus} vCPUs, ${memory}): ${said}(${how})`)
}
