// Starts Cloud Hypervisor processes: cold, or from a memory image. A start that fails leaves no process and no socket, and says what the VMM said.

import { appendFileSync } from 'node:fs'
import { link, mkdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { removeFile } from '../../files/stage.ts'
import { diskErrors } from '../../platform/disk-error.ts'
import type { Binary } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import { spawnDetached } from '../../platform/process.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { firstAnswer } from '../../platform/unix-http.ts'
import type { MachineSpec } from '../driver.ts'
import { diskName, diskOver, ownDisk, removeDisks } from '../raw-disks.ts'
import { replacedProgram } from '../versions.ts'
import { listenToLog, startFailure } from '../vmm-log.ts'
import type { RestoreRequest } from './api.ts'
import { snapshotParts, vmmFiles } from './files.ts'
import { checkedManifest, discardImage, savedConfig } from './images.ts'
import { CloudHypervisorMachine } from './machine.ts'
import { bootConfig, restoreConfig } from './vm-config.ts'

/** What the driver knows of its host. */
export interface Host {
  /** The kernel in the form that the VMM boots, from the one that is kept. */
  kernelImage(kernel: string): Promise<string>
  /** Why memory can't come when the guest asks for it; undefined if it can. */
  whyNotOnDemand(): Promise<string | undefined>
  /** Until a started process must answer for the first time, in milliseconds. */
  readonly startLimitMs?: number | undefined
}

const START_LIMIT_MS = 10_000
/** Slowest disk that memory is read from and written to, in bytes per millisecond: what takes longer hangs. */
const SLOWEST_BYTES_PER_MS = 20_000
const SHORTEST_LIMIT_MS = 60_000

/** How long saving or reading so much memory may take, in milliseconds. */
export function memoryLimitMs(bytes: number): number {
  return SHORTEST_LIMIT_MS + Math.ceil(bytes / SLOWEST_BYTES_PER_MS)
}

export async function startCold(host: Host, binary: Binary, spec: MachineSpec, signal: AbortSignal): Promise<CloudHypervisorMachine> {
  demandSockets(spec)
  const kernel = await host.kernelImage(spec.kernel)
  await discardImage(spec.directory)
  const disk = await ownDisk(spec.directory, signal)
  const config = bootConfig(spec, { kernel, systemDisk: diskName(disk) })
  return launch(host, binary, spec, signal, async ({ vmm }) => {
    await vmm.create(config, signal)
    await vmm.command('boot', signal)
  })
}

/** The process comes up paused, with memory, devices and disk of the image's instant; it writes to a copy of that disk. */
export async function startFromImage(host: Host, binary: Binary, spec: MachineSpec, signal: AbortSignal): Promise<CloudHypervisorMachine> {
  demandSockets(spec)
  const image = await checkedManifest(spec.directory)
  const kernel = await host.kernelImage(spec.kernel)
  const saved = await savedConfig(spec.directory)
  const config = restoreConfig(saved, spec, { kernel, systemDisk: diskName(image.disk + 1) })
  const source = path.join(spec.directory, vmmFiles.restoring)
  await using undo = new AsyncDisposableStack()
  undo.defer(async () => {
    await removeDisks(spec.directory, (number) => number > image.disk)
    await removeFile(path.join(spec.directory, vmmFiles.base))
  })
  await diskOver(spec.directory, image.disk, signal)
  let machine: CloudHypervisorMachine | undefined
  undo.defer(async () => machine?.kill())
  {
    await using _source = await sourceOf(spec.directory, source, config)
    machine = await load(host, binary, spec, image.memoryBytes, source, signal)
  }
  undo.move()
  return machine
}

/** A directory like the image's, with another configuration: the image stays as it is. The VMM has opened what it needs of it when it has loaded. */
async function sourceOf(directory: string, source: string, config: object): Promise<AsyncDisposable> {
  await rm(source, { recursive: true, force: true })
  await mkdir(source, { mode: 0o700 })
  const remove = (): Promise<void> => rm(source, { recursive: true, force: true })
  try {
    for (const name of [snapshotParts.memory, snapshotParts.state]) await link(path.join(directory, name), path.join(source, name))
    await diskErrors(source, () => writeFile(path.join(source, snapshotParts.config), JSON.stringify(config), { mode: 0o600 }))
  } catch (error) {
    await remove()
    throw error
  }
  return { [Symbol.asyncDispose]: remove }
}

/** On demand where that can be; a VMM that fails so is never fallen back from by itself, so another process reads all of memory first. */
async function load(
  host: Host,
  binary: Binary,
  spec: MachineSpec,
  memoryBytes: number,
  directory: string,
  signal: AbortSignal,
): Promise<CloudHypervisorMachine> {
  const base = path.join(spec.directory, vmmFiles.base)
  const attempt = async (onDemand: boolean): Promise<CloudHypervisorMachine> => {
    await removeFile(base)
    if (onDemand) await link(path.join(directory, snapshotParts.memory), base)
    const request: RestoreRequest = { directory, onDemand, limitMs: memoryLimitMs(memoryBytes) }
    return launch(host, binary, spec, signal, async (machine) => {
      await machine.vmm.restore(request, signal)
      const status = await machine.status(signal)
      if (status !== 'paused')
        throw new HypemanError('conflict', `Cloud Hypervisor is ${status} after it took over the memory image, not paused`)
    })
  }
  const whyNot = await host.whyNotOnDemand()
  if (whyNot !== undefined) {
    note(spec, `memory is read as a whole before the guest goes on: ${whyNot}`)
    return attempt(false)
  }
  try {
    return await attempt(true)
  } catch (error) {
    signal.throwIfAborted()
    note(spec, `memory could not be loaded on demand and is read as a whole before the guest goes on: ${messageOf(error)}`)
    return attempt(false)
  }
}

/** In the VMM's own log, where its own words are. */
function note({ directory }: MachineSpec, line: string): void {
  appendFileSync(path.join(directory, vmmFiles.vmm), `hypeman: ${line}\n`)
}

async function launch(
  { startLimitMs: limitMs = START_LIMIT_MS }: Host,
  binary: Binary,
  spec: MachineSpec,
  signal: AbortSignal,
  whenListening: (machine: CloudHypervisorMachine) => Promise<void>,
): Promise<CloudHypervisorMachine> {
  await removeSockets(spec.directory)
  // Versions that do not empty it would have what the last process said be said of this one.
  await removeFile(path.join(spec.directory, vmmFiles.events))
  const logFile = path.join(spec.directory, vmmFiles.vmm)
  const said = listenToLog(logFile)
  let machine: CloudHypervisorMachine | undefined
  try {
    const started = await spawnDetached({
      command: binary.path,
      args: argumentsFor(spec),
      cwd: spec.directory,
      logFile,
      outputFile: path.join(spec.directory, vmmFiles.app),
    })
    machine = new CloudHypervisorMachine(started, spec.directory)
    const { vmm } = machine
    const ping = (either: AbortSignal, leftMs: number): Promise<string> => vmm.version(either, leftMs)
    const version = await firstAnswer(ping, { name: 'Cloud Hypervisor', signal, limitMs })
    if (version !== binary.version) throw replacedProgram('Cloud Hypervisor', version, binary.version)
    machine.endOnReset()
    await whenListening(machine)
    return machine
  } catch (error) {
    await machine?.kill()
    await removeSockets(spec.directory)
    signal.throwIfAborted()
    const log = (await said()).join('; ')
    throw startFailure(
      error,
      `Cloud Hypervisor could not start ${spec.instanceId}: ${messageOf(error)}${log === '' ? '' : ` (its log: ${log})`}`,
    )
  }
}

/** Without a kernel among them the kernel's arguments are not used: by them a server that has no record of the process tells whose it was. */
function argumentsFor({ instanceId }: MachineSpec): string[] {
  return ['--api-socket', `path=${vmmFiles.api}`, '--event-monitor', `path=${vmmFiles.events}`, '--cmdline', `hypeman-${instanceId}`]
}

/** Before anything is made. */
function demandSockets({ directory }: MachineSpec): void {
  for (const name of [vmmFiles.api, vmmFiles.vsock]) socketPath(directory, name)
}

/** A socket that is there keeps the VMM from starting. */
async function removeSockets(directory: string): Promise<void> {
  for (const name of [vmmFiles.api, vmmFiles.apiLock, vmmFiles.vsock]) await removeFile(path.join(directory, name))
}
