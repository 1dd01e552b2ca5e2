// From a record to a running VMM process and back: the machine's description, watching its end, its agent connection.
// The order of steps belongs to the flows (start.ts, resume.ts, …).

import { open } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import type { Duplex } from 'node:stream'
import type { AgentClient } from '../agent/contract.ts'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import { instanceFiles } from '../files/layout.ts'
import type { Hypervisor, Machine, MachineSpec, MemorySnapshots } from '../hypervisors/driver.ts'
import { kernelOf } from '../kernels/index.ts'
import type { InstanceContext, InstanceSettings } from './context.ts'
import { holdInstance } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { exitOf } from './exit.ts'
import { networkSpecOf, releaseNetwork } from './network.ts'
import { systemPartsOf } from './overlays.ts'
import type { InstanceRecord } from './record.ts'
import { afterExit, withoutPlan } from './restart-policy.ts'

/** How long the settling of an ended VMM waits for the flow that may be ending it, in milliseconds. */
const SETTLE_LOCK_WAIT_MS = 600_000

export function driverOf(context: InstanceContext, record: Pick<InstanceRecord, 'hypervisor'>): Hypervisor {
  const driver = context.drivers.get(record.hypervisor)
  if (driver === undefined)
    throw new HypemanError(
      'not_supported',
      `the hypervisor ${record.hypervisor} is not available on this server; choose one of ${[...context.drivers.keys()].join(', ')}`,
    )
  return driver
}

/** The driver's memory snapshots, or `not_supported`. */
export function memoryOf(context: InstanceContext, record: Pick<InstanceRecord, 'hypervisor'>): MemorySnapshots {
  const { memory } = driverOf(context, record)
  if (memory === undefined)
    throw new HypemanError('not_supported', `the hypervisor ${record.hypervisor} can't save a guest's memory here; use a Stopped snapshot`)
  return memory
}

/** `not_supported` where a limit of disk throughput would not hold. */
export function demandDiskLimit(driver: Hypervisor, { diskBytesPerSecond }: Pick<InstanceRecord, 'diskBytesPerSecond'>): void {
  if (diskBytesPerSecond !== null && !driver.features.includes('disk-io-limit'))
    throw new HypemanError('not_supported', `disk_io_bps: ${driver.name} can't limit what disks read and write; leave the field out`)
}

/** A machine has whole MiB of memory. */
export function mibOf(bytes: number): number {
  return Math.ceil(bytes / 1024 ** 2)
}

/** Processors that a machine may be given while it runs, where it can be, if that is more than twice what it has: each that it might be given costs its guest some memory. */
const FEW_VCPUS = 4

/** What a machine has, and what it may be given while it runs. */
export function machineSizeOf(
  { maxVcpus }: Pick<InstanceSettings, 'maxVcpus'>,
  { vcpus, memoryBytes, hotplugBytes }: Pick<InstanceRecord, 'vcpus' | 'memoryBytes' | 'hotplugBytes'>,
): Pick<MachineSpec, 'vcpus' | 'memoryMib' | 'largest'> {
  const most = Math.min(maxVcpus, os.availableParallelism(), Math.max(FEW_VCPUS, 2 * vcpus))
  const memoryMib = mibOf(memoryBytes)
  return { vcpus, memoryMib, largest: { vcpus: Math.max(vcpus, most), memoryMib: memoryMib + Math.floor(hotplugBytes / 1024 ** 2) } }
}

/** What the VMM is made from. Equal records give equal machines. */
export function specOf(context: InstanceContext, record: InstanceRecord): MachineSpec {
  const image = context.images.byDigest(record.image.digest)
  if (image === undefined)
    throw new HypemanError(
      'not_found',
      `the image ${record.image.name} (${record.image.digest}) of the instance ${record.name} is gone; pull it again`,
    )
  const { kernel, initrd } = kernelOf(context.layout, record.kernelId)
  return {
    instanceId: record.id,
    directory: context.layout.instance(record.id),
    ...machineSizeOf(context.settings, record),
    kernel,
    initrd,
    disks: [
      { id: 'rootfs', path: image.rootfsPath, readOnly: true },
      ...record.volumes.map((volume, index) => ({
        id: `vol-${index}`,
        path: context.volumes.imagePath(volume.volumeId),
        readOnly: volume.readOnly,
      })),
    ],
    systemBytes: record.overlayBytes,
    systemParts: systemPartsOf(record),
    diskBytesPerSecond: record.diskBytesPerSecond,
    network: networkSpecOf(context, record),
  }
}

/** Makes a started process the instance's machine and watches for its end. */
export function attach(context: InstanceContext, entry: InstanceEntry, machine: Machine): void {
  entry.machine = machine
  entry.agent = undefined
  entry.standsStill = false
  entry.stopWaiting = new AbortController()
  machine.exited
    .then(async (exit) => {
      if (entry.machine !== machine) return
      entry.settling = true
      detach(entry)
      context.log.info({ instance: entry.id, pid: machine.process.pid, reason: exit.reason }, 'VMM ended')
      if (!context.stopping.aborted) await settleExit(context, entry, machine, exit.reason)
    })
    .finally(() => (entry.settling = false))
    .catch((error: unknown) =>
      context.log.error({ instance: entry.id, error }, 'the end of a VMM could not be recorded; the next start of the server does it'),
    )
}

/** Forgets the machine and fails whatever waits for it. */
export function detach(entry: InstanceEntry): void {
  entry.machine = undefined
  entry.agent = undefined
  entry.stopWaiting.abort(
    new HypemanError(
      'guest_unreachable',
      `the VMM of the instance ${entry.record.name} has ended; see hypeman logs --source vmm ${entry.record.name}`,
    ),
  )
}

/** Records that a VMM ended by itself, unless a flow that ended it has done so already. */
export async function settleExit(
  context: InstanceContext,
  entry: InstanceEntry,
  machine: Pick<Machine, 'process'>,
  reason: string,
): Promise<void> {
  using _lock = await holdInstance(context, entry, SETTLE_LOCK_WAIT_MS)
  if (context.store.byId(entry.id) !== entry) return // deleted meanwhile, with its record
  const { process } = entry.record
  if (process === null || process.pid !== machine.process.pid || process.startTicks !== machine.process.startTicks) return
  await releaseNetwork(context, entry.record)
  const exit = await exitOf(context.layout.instance(entry.id), entry.record)
  await recordEnd(context, entry, exit, exit?.message ?? reason)
}

/** Records an end that nobody asked for, with what the restart policy says to it: one that is in standby then is left there. */
async function recordEnd(context: InstanceContext, entry: InstanceEntry, exit: InstanceRecord['exit'], message: string): Promise<void> {
  const { record } = entry
  const restarts = entry.holdsMemory ? withoutPlan(record.restarts) : afterExit(record, exit, Date.now())
  const balloon = entry.holdsMemory ? record.balloon : null
  await context.store.update(entry, { process: null, stoppedAt: new Date().toISOString(), runningSince: null, exit, restarts, balloon })
  entry.settling = false
  context.events.state(entry.id, entry.derive('gone').state, message)
  context.events.restartPlan(entry.id, entry.record)
}

/** Kills the process, if any; whatever waits for it fails with the reason. What it had of the host's network goes. The record is the caller's. */
export async function killMachine(context: InstanceContext, entry: InstanceEntry, reason: HypemanError): Promise<void> {
  const { machine } = entry
  if (machine !== undefined) {
    entry.stopWaiting.abort(reason)
    await machine.kill()
    detach(entry)
  }
  await releaseNetwork(context, entry.record)
}

/** Kills the process, if any, and records that it is gone. */
export async function endMachine(context: InstanceContext, entry: InstanceEntry, change: Partial<InstanceRecord> = {}): Promise<void> {
  await killMachine(context, entry, new HypemanError('canceled', `the instance ${entry.record.name} is being stopped`))
  const ended = { process: null, stoppedAt: entry.record.stoppedAt ?? new Date().toISOString(), runningSince: null }
  await context.store.update(entry, { ...ended, ...change })
}

/** The agent of a live machine: the open connection, or a new one. */
export async function agentOf(entry: InstanceEntry, context: InstanceContext, signal: AbortSignal): Promise<AgentClient> {
  return waitFor(entry.agent ?? openAgent(entry, context), signal)
}

/**
 * Begins to connect to the agent of a live machine. Whoever asks for the agent later is told if that fails. `ahead`: whoever asks for it first need not wait
 * for an answer of the guest before saying something.
 */
export function openAgent(entry: InstanceEntry, context: InstanceContext, ahead = false): Promise<AgentClient> {
  const connecting = connect(entry, context, ahead)
  entry.agent = connecting
  const forget = (): void => {
    if (entry.agent === connecting) entry.agent = undefined
  }
  connecting.then((client) => client.closed.then(forget), forget)
  return connecting
}

async function connect(entry: InstanceEntry, context: InstanceContext, ahead: boolean): Promise<AgentClient> {
  const { machine, record, stopWaiting } = entry
  if (machine === undefined) throw new HypemanError('guest_unreachable', `the instance ${record.name} has no running VMM`)
  return await connectTo(machine, context, stopWaiting.signal, ahead)
}

/** A connection of its own to a machine's agent. */
export async function connectTo(machine: Machine, context: InstanceContext, signal: AbortSignal, ahead = false): Promise<AgentClient> {
  const channel = await openChannel(machine, signal)
  try {
    return await context.connectAgent(channel, signal, ahead)
  } catch (error) {
    channel.destroy()
    throw error
  }
}

/** A VMM that has just ended takes no connection any more. */
async function openChannel(machine: Machine, signal: AbortSignal): Promise<Duplex> {
  try {
    return await machine.openAgentChannel(signal)
  } catch (cause) {
    signal.throwIfAborted()
    if (isHypemanError(cause)) throw cause
    throw new HypemanError('guest_unreachable', "the channel to the guest agent can't be opened; the VMM may just have ended", { cause })
  }
}

/** The promise's result, or the signal's reason, whichever comes first. What comes later is left to the other waiters. */
export async function waitFor<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  promise.catch(() => undefined) // nobody may be left to hear of it, which would end the server
  signal.throwIfAborted()
  const { promise: aborted, reject } = Promise.withResolvers<never>()
  const onAbort = (): void => reject(signal.reason as Error)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    return await Promise.race([promise, aborted])
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** Appends a line of the product's own to the instance's VMM log, for what no process could write. */
export async function noteInVmmLog(context: InstanceContext, id: string, line: string): Promise<void> {
  await using file = await open(path.join(context.layout.instance(id), instanceFiles.vmmLog), 'a')
  await file.write(`hypeman: ${line}\n`)
}
