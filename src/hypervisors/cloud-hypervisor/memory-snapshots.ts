// Capture, suspend and restore: in which order memory, devices and disk are frozen, and what is undone when a step fails.

import { mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { socketPath } from '../../platform/socket-path.ts'
import { isListening } from '../../platform/unix-http.ts'
import type { MachineSpec, MemorySnapshots } from '../driver.ts'
import { orFull } from '../full-disk.ts'
import { whilePaused } from '../paused.ts'
import { copyDisk, keepDisk } from '../raw-disks.ts'
import type { Versions } from '../versions.ts'
import { VmmError } from './api.ts'
import { vmmFiles } from './files.ts'
import { completeImage, completeMemory, consumeImage, discardImage, holdsImage, keepBase, removeImage, stageImage } from './images.ts'
import { asCloudHypervisor, type CloudHypervisorMachine } from './machine.ts'
import { memoryLimitMs, startFromImage, type Host } from './start.ts'

/** Told of each snapshot of a running machine. */
const stoodStill = 'the guest stood still while Cloud Hypervisor wrote its memory: all of it that was ever used'

export function memorySnapshots(host: Host, versions: Versions): MemorySnapshots {
  return {
    tellsPause: true,

    async capture(machine, spec, target, signal, around) {
      const vm = asCloudHypervisor(machine)
      const wasRunning = (await vm.status(signal)) === 'running'
      const disk = await vm.disk()
      signal.throwIfAborted()
      const { report } = await whilePaused(vm, wasRunning, around, () => freeze(vm, spec, target, disk, signal))
      const memoryBytes = await completeMemory(target, signal)
      await stageImage(target, ramBytesOf(spec), disk)
      return { ...report, memoryBytes, ...(wasRunning ? { note: stoodStill } : {}) }
    },

    async suspend(machine, spec, signal) {
      const vm = asCloudHypervisor(machine)
      const started = performance.now()
      const disk = await vm.disk()
      const saving = path.join(spec.directory, vmmFiles.saving)
      await using undo = new AsyncDisposableStack()
      undo.defer(() => removeImage(spec.directory))
      // What lies below the disk of an image is taken for another image's.
      await keepDisk(spec.directory, disk, () => removeImage(spec.directory))
      await mkdir(saving, { mode: 0o700 })
      vm.mayBeSaved = true
      await save(vm, spec, saving)
      signal.throwIfAborted()
      const memoryBytes = await completeMemory(saving, signal)
      await completeImage(spec.directory, saving, ramBytesOf(spec), disk)
      await rm(saving, { recursive: true })
      undo.move()
      return { pausedMs: performance.now() - started, memoryBytes }
    },

    async restore(spec, wanted, signal) {
      const writer = await versions.writerOf(wanted)
      return versions.onSameVersion(() => startFromImage(host, writer, spec, signal))
    },

    holdsMemory: async (directory) => holdsImage(directory),
    async discardMemory(directory) {
      // A process that runs has a disk above the image's.
      await ((await isListening(socketPath(directory, vmmFiles.api))) ? removeImage(directory) : discardImage(directory))
    },
    consumeMemory: consumeImage,
  }
}

/** The VMM writes memory and devices while the disk is copied: nothing of the guest changes meanwhile. Both have ended when this has, however it did. */
async function freeze(vm: CloudHypervisorMachine, spec: MachineSpec, target: string, disk: number, signal: AbortSignal): Promise<void> {
  const [saved, copied] = await Promise.allSettled([save(vm, spec, target), copyDisk(spec.directory, disk, target, disk, signal)])
  if (saved.status === 'rejected') throw saved.reason
  if (copied.status === 'rejected') throw copied.reason
  signal.throwIfAborted()
}

/** No abort cuts this short, since the VMM would go on writing. */
async function save({ vmm }: CloudHypervisorMachine, spec: MachineSpec, target: string): Promise<void> {
  // First: a process that ends takes it along, and has then saved nothing.
  await keepBase(spec.directory, target)
  try {
    await vmm.snapshot(target, memoryLimitMs(ramBytesOf(spec)))
  } catch (error) {
    throw error instanceof VmmError ? await orFull(spec.directory, error) : error
  }
}

function ramBytesOf(spec: MachineSpec): number {
  return spec.memoryMib * 1024 ** 2
}
