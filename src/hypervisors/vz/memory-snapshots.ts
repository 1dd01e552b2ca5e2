// Capture, suspend and restore: in which order memory and disk are frozen, and what is undone when a step fails.

import path from 'node:path'
import { HypemanError } from '../../api/errors.ts'
import { socketPath } from '../../platform/socket-path.ts'
import { isListening } from '../../platform/unix-http.ts'
import type { Machine, MemorySnapshots } from '../driver.ts'
import { whilePaused } from '../paused.ts'
import { consumeDisk, copyDisk, keepDisk } from '../raw-disks.ts'
import type { Versions } from '../versions.ts'
import { vzFiles } from './configuration.ts'
import { completeImage, discardImage, holdsImage, removeImage, stateFile } from './image.ts'
import { VzMachine, type Described } from './machine.ts'
import { startFromImage, type VzProgram } from './start.ts'

export function memorySnapshots(program: VzProgram, versions: Versions): MemorySnapshots {
  return {
    tellsPause: true,

    async capture(machine, spec, target, signal, around) {
      const vz = asVz(machine)
      const wasRunning = (await vz.status(signal)) === 'running'
      const what = await savable(vz)
      signal.throwIfAborted()
      const { report } = await whilePaused(vz, wasRunning, around, async () => {
        // No abort cuts this short, since the helper would go on writing the file.
        await vz.ask('vm.snapshot', { file: path.join(target, stateFile) })
        await copyDisk(spec.directory, what.disk, target, what.disk, signal)
      })
      const memoryBytes = await completeImage(target, what, false)
      return { ...report, memoryBytes }
    },

    async suspend(machine, { directory }, signal) {
      const vz = asVz(machine)
      const what = await savable(vz)
      const started = performance.now()
      await using undo = new AsyncDisposableStack()
      undo.defer(() => removeImage(directory))
      // What lies below the disk of an image is taken for another image's.
      await keepDisk(directory, what.disk, () => removeImage(directory))
      signal.throwIfAborted()
      await vz.ask('vm.snapshot', { file: stateFile })
      const memoryBytes = await completeImage(directory, what, true)
      undo.move()
      return { pausedMs: performance.now() - started, memoryBytes }
    },

    async restore(spec, wanted, signal) {
      const { version } = await versions.writerOf(wanted)
      return versions.onSameVersion(() => startFromImage(program, spec, version, signal))
    },

    holdsMemory: async (directory) => holdsImage(directory),
    async discardMemory(directory) {
      // A process that runs has a disk above the image's.
      await ((await isListening(socketPath(directory, vzFiles.control))) ? removeImage(directory) : discardImage(directory))
    },
    consumeMemory: (directory) => consumeDisk(directory, () => removeImage(directory)),
  }
}

/** What a machine is, if the framework can save it. */
async function savable(vz: VzMachine): Promise<Described> {
  const { saveRestore } = await vz.info()
  if (saveRestore !== null)
    throw new HypemanError('not_supported', `macOS can't save this machine's memory: ${saveRestore}; use a Stopped snapshot`)
  return vz.described()
}

function asVz(machine: Machine): VzMachine {
  if (machine instanceof VzMachine) return machine
  throw new TypeError('the machine is of another driver')
}
