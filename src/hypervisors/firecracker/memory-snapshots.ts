// Capture, suspend and restore: in which order memory, devices and disks are frozen, and what is undone when a step fails.

import path from 'node:path'
import { copyPayload } from '../../files/copy.ts'
import { removeFile } from '../../files/stage.ts'
import { isListening } from '../../platform/unix-http.ts'
import type { CaptureReport, Machine, MachineSpec, MemorySnapshots } from '../driver.ts'
import { orFull } from '../full-disk.ts'
import { whilePaused } from '../paused.ts'
import type { Versions } from '../versions.ts'
import { isRefusal, MEMORY_LIMIT_MS } from './api.ts'
import { freezeDisk } from './disks.ts'
import { diskFiles, firecrackerFiles, memoryFiles } from './files.ts'
import type { Jailers } from './jailer.ts'
import { FirecrackerMachine, hasJailedIn } from './machine.ts'
import { commitManifest, discardImage, holdsImage, planSave, removeImage, stageManifest, type PlannedSave } from './memory.ts'
import { startFromImage, type Program } from './start.ts'

interface Host extends Pick<Program, 'startLimitMs'> {
  /** Whether the file system of the data directory tells pages from holes beside them (files/sparse.ts). */
  pageHoles(): Promise<boolean>
  readonly jailers: Jailers
}

export function memorySnapshots(versions: Versions, host: Host): MemorySnapshots {
  return {
    movable: true,

    tellsPause: true,

    async capture(machine, spec, target, signal, around) {
      const firecracker = asFirecracker(machine)
      const wasRunning = (await firecracker.status(signal)) === 'running'
      const holes = await host.pageHoles()
      signal.throwIfAborted()
      const { frozen, report } = await whilePaused(firecracker, wasRunning, around, async () => {
        const save = await planSave(spec.directory, target, holes)
        await saveMachine(firecracker, save, target)
        // What comes from here on is of the machine that goes on, not of what was saved.
        const { logged } = firecracker
        await copyPayload(path.join(spec.directory, diskFiles.live), path.join(target, diskFiles.frozen), { durable: false, signal })
        return { save, logged }
      })
      const { save, logged } = frozen
      const memoryBytes = await save.finish(signal, () => firecracker.lives)
      await stageManifest(target, { ramBytes: ramBytesOf(spec), logged })
      return { ...report, memoryBytes, ...(save.kind === 'Full' ? { note: holes ? countLost : coarseHoles } : {}) }
    },

    async suspend(machine, spec, signal): Promise<CaptureReport> {
      const firecracker = asFirecracker(machine)
      const started = performance.now()
      await using undo = new AsyncDisposableStack()
      undo.defer(() => removeImage(spec.directory))
      await removeImage(spec.directory)
      const save = await planSave(spec.directory, spec.directory, await host.pageHoles())
      firecracker.mayBeSaved = true
      await saveMachine(firecracker, save, spec.directory)
      await freezeDisk(spec.directory)
      const memoryBytes = await save.finish(signal, () => firecracker.lives)
      await commitManifest(spec.directory, { ramBytes: ramBytesOf(spec), logged: firecracker.logged })
      undo.move()
      return { pausedMs: performance.now() - started, memoryBytes }
    },

    async restore(spec, wanted, signal) {
      const writer = await versions.writerOf(wanted)
      const jailer = await host.jailers.of(writer)
      return versions.onSameVersion(() => startFromImage({ ...writer, jailer, startLimitMs: host.startLimitMs }, spec, signal))
    },

    holdsMemory: async (directory) => holdsImage(directory),
    async discardMemory(directory) {
      const runs = hasJailedIn(directory) || (await isListening(path.join(directory, firecrackerFiles.api)))
      await (runs ? removeImage(directory) : discardImage(directory))
    },
    // What a running process counts from stays beside it.
    consumeMemory: removeImage,
  }
}

/** Told of a snapshot for which all of the memory was written, though less might have done. */
const countLost =
  'the guest stood still while all of its memory was written, since nobody can tell what it wrote since its last snapshot; the next ones write what changed'
const coarseHoles =
  'the guest stood still while all of its memory was written, since the file system of the data directory does not tell written pages from holes beside them; put it on ext4, XFS or btrfs'

/** Memory first, then devices, both by Firecracker. No abort cuts it short, since Firecracker would go on writing the files. */
async function saveMachine(machine: FirecrackerMachine, save: PlannedSave, target: string): Promise<void> {
  const [state, memory] = [machine.writes(path.join(target, memoryFiles.state)), machine.writes(save.file)]
  const body = { snapshot_type: save.kind, snapshot_path: state.name, mem_file_path: memory.name }
  try {
    await machine.ask({ method: 'PUT', path: '/snapshot/create', body, limitMs: MEMORY_LIMIT_MS })
    for (const written of [state, memory]) await written.done()
  } catch (error) {
    // Asked before what was written makes room again.
    const failure = isRefusal(error) ? await orFull(target, error) : error
    for (const written of [state, memory]) await written.undo()
    await removeFile(save.file)
    throw failure
  } finally {
    machine.dropConnections()
  }
}

function ramBytesOf(spec: MachineSpec): number {
  return spec.memoryMib * 1024 ** 2
}

function asFirecracker(machine: Machine): FirecrackerMachine {
  if (machine instanceof FirecrackerMachine) return machine
  throw new TypeError('the machine is of another driver')
}
