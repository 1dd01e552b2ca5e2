// A hypervisor whose machines are small processes with a disk, memory and a guest that speaks the agent protocol (README.md): the contract's
// durability and sharing with none of the cost of booting. For tests that need many machines, or many at once.

import { open, rename, stat, truncate } from 'node:fs/promises'
import path from 'node:path'
import { HypemanError } from '../../../src/api/errors.ts'
import type {
  Balloon,
  Hypervisor,
  HypervisorName,
  Machine,
  MemorySnapshots,
  Resize,
  VersionStamp,
} from '../../../src/hypervisors/driver.ts'
import { messageOf } from '../../../src/platform/flow.ts'
import { adoptProcess } from '../../../src/platform/process.ts'
import { copyPayload } from '../../../src/files/copy.ts'
import {
  completeImage,
  demandManifest,
  diskName,
  diskOf,
  diskOver,
  imageName,
  linkFrozen,
  ownDisk,
  partOf,
  readManifest,
  removeDisks,
  removeFrozenDisks,
  removeImage,
  stageManifest,
} from './files.ts'
import { StandInMachine, startMachine } from './machine.ts'

export interface StandInOptions {
  /** The name under which the product knows it. */
  readonly name: HypervisorName
  /** Absolute path of the program (program.ts). */
  readonly program: string
  /** Images restore only under an equal version. */
  readonly version?: string
  /** Another word than another stand-in's: disks between the two are converted. */
  readonly diskFormat?: string
  /** Its guests give memory back. */
  readonly hasBalloon?: boolean
  /** Its machines can be made larger while they run. */
  readonly grows?: boolean
}

/** Two hypervisors, which do not take each other's disks as they are: one with a balloon and machines that grow, and one without. */
export function createStandIns(program: string): readonly Hypervisor[] {
  return (['qemu', 'qemu-microvm'] as const).map((name) =>
    createStandIn({ name, program, diskFormat: `of ${name}`, hasBalloon: name === 'qemu', grows: name === 'qemu' }),
  )
}

export function createStandIn(options: StandInOptions): Hypervisor {
  const { name, program, version = '1', diskFormat = 'stand-in', hasBalloon = false, grows = false } = options
  const stamp: VersionStamp = { hypervisor: name, version, machineType: 'stand-in', accelerator: 'none' }
  return {
    name,
    diskFormat,
    features: [
      ...['snapshots', 'standby', 'fork', 'pause'],
      ...(grows ? ['hotplug-memory', 'hotplug-cpu'] : []),
      ...(hasBalloon ? ['balloon-control'] : []),
      ...(grows ? ['disk-resize'] : []),
    ],
    // Its machines leave their device alone: it is there, and leads nowhere.
    networks: ['user', 'tap'],
    maxVolumes: 20,
    memory: memorySnapshots(program, stamp),
    ...(hasBalloon ? { balloon } : {}),
    ...(grows ? { resize } : {}),
    unavailable: () => Promise.resolve(undefined),
    stamp: () => Promise.resolve(stamp),
    partOf,
    // Its disks are plain files, which name no others.
    async createDisk(directory, sizeBytes) {
      await using disk = await open(path.join(directory, diskName(0)), 'wx', 0o600)
      await disk.truncate(sizeBytes)
    },
    async addDiskParts(directory, sizes) {
      const file = path.join(directory, diskName(await ownDisk(directory)))
      await using disk = await open(file, 'r+')
      const { size } = await disk.stat()
      const ends = sizes.map((_, index) => size + sizes.slice(0, index + 1).reduce((sum, one) => sum + one, 0))
      await disk.truncate(ends.at(-1) ?? size)
      return {
        parts: sizes.map((sizeBytes, index) => ({ offsetBytes: (ends[index] ?? 0) - sizeBytes, sizeBytes })),
        [Symbol.asyncDispose]: () => truncate(file, size),
      }
    },
    async growDisk(directory, sizeBytes) {
      const file = path.join(directory, diskName(await ownDisk(directory)))
      const { size } = await stat(file)
      await truncate(file, Math.max(size, sizeBytes))
      return { [Symbol.asyncDispose]: () => truncate(file, size) }
    },
    async exportDisk(directory, file) {
      await copyPayload(path.join(directory, diskName(await diskOf(directory))), file)
    },
    importDisk: (directory, file) => rename(file, path.join(directory, diskName(0))),
    async boot(spec, signal) {
      await removeImage(spec.directory)
      return await startMachine(program, spec, await ownDisk(spec.directory), signal)
    },
    async adopt(spec, process) {
      const found = adoptProcess(process)
      return found === undefined ? undefined : new StandInMachine(found, spec.directory)
    },
    share: linkFrozen,
    // The fork's own disk is made when it starts.
    materialise: linkFrozen,
  }
}

const resize: Resize = {
  async disk(machine, sizeBytes) {
    const file = path.join(asStandIn(machine).directory, diskName(await asStandIn(machine).disk()))
    await truncate(file, Math.max((await stat(file)).size, sizeBytes))
  },
  machine: {
    memoryStepMib: 128,
    size: (machine, signal) => asStandIn(machine).size(signal),
    grow: (machine, wanted, signal) => asStandIn(machine).grow(wanted, signal),
  },
}

const balloon: Balloon = {
  given: (machine, signal) => asStandIn(machine).balloon(signal),
  ask: (machine, bytes, signal) => asStandIn(machine).fillBalloon(bytes, signal),
}

function memorySnapshots(program: string, stamp: VersionStamp): MemorySnapshots {
  return {
    async capture(machine, spec, target, signal) {
      const standIn = asStandIn(machine)
      const wasRunning = (await standIn.status(signal)) === 'running'
      const disk = await standIn.disk()
      const started = performance.now()
      await using undo = new AsyncDisposableStack()
      undo.defer(async () => {
        if (wasRunning) await standIn.resume()
      })
      await standIn.pause()
      await standIn.save(path.join(target, imageName(disk)))
      await copyPayload(path.join(spec.directory, diskName(disk)), path.join(target, diskName(disk)))
      undo.move()
      const notResumed = wasRunning ? await standIn.resume().then(() => undefined, messageOf) : undefined
      const pausedMs = performance.now() - started
      await stageManifest(target, disk)
      return { pausedMs, memoryBytes: 0, ...(notResumed === undefined ? {} : { notResumed }) }
    },

    async suspend(machine, { directory }) {
      const standIn = asStandIn(machine)
      const started = performance.now()
      const disk = await standIn.disk()
      await using undo = new AsyncDisposableStack()
      undo.defer(() => removeImage(directory))
      await removeImage(directory)
      await standIn.save(path.join(directory, imageName(disk)))
      await completeImage(directory, disk, standIn.process)
      undo.move()
      return { pausedMs: performance.now() - started, memoryBytes: 0 }
    },

    async restore(spec, wanted, signal) {
      if (wanted.version !== stamp.version || wanted.machineType !== stamp.machineType)
        throw new HypemanError(
          'incompatible_version',
          `the memory image was written by version ${wanted.version} (${wanted.machineType}), here is ${stamp.version} (${stamp.machineType})`,
        )
      const image = await demandManifest(spec.directory)
      const disk = await diskOver(spec.directory, image.disk)
      try {
        return await startMachine(program, spec, disk, signal, image.disk)
      } catch (error) {
        await removeDisks(spec.directory, (number) => number > image.disk)
        throw error
      }
    },

    holdsMemory: async (directory) => (await readManifest(directory)) !== undefined,
    discardMemory: removeImage,
    async consumeMemory(directory) {
      await removeImage(directory)
      await removeFrozenDisks(directory)
    },
  }
}

function asStandIn(machine: Machine): StandInMachine {
  if (machine instanceof StandInMachine) return machine
  throw new TypeError('the machine is of another driver')
}
