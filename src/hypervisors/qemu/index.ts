// The QEMU driver: `qemu` (q35) and `qemu-microvm`. Recipes and measurements: README.md.

import { execa } from 'execa'
import { HypemanError } from '../../api/errors.ts'
import type { DataLayout } from '../../files/layout.ts'
import { messageOf } from '../../platform/flow.ts'
import { adoptProcess } from '../../platform/process.ts'
import type { CaptureReport, Hypervisor, Machine, MemorySnapshots, VersionStamp } from '../driver.ts'
import { maxVolumes, qemuFiles, systemDisk, type QemuMachineType } from './command-line.ts'
import { addLayer, createBase, lastLayer, layerName, linkLayers, removeLayersAbove } from './layers.ts'
import { QemuMachine } from './machine.ts'
import {
  checkedManifest,
  finishImage,
  keepOnlyBase,
  linkImage,
  mappedBase,
  readManifest,
  removeImage,
  savePages,
  stateFile,
} from './memory.ts'
import { startCold, startFromImage, type QemuProgram } from './start.ts'

export interface QemuDriverOptions {
  readonly machineType: QemuMachineType
  readonly accelerator: 'kvm' | 'tcg'
  readonly layout: DataLayout
  /** Found on PATH unless absolute. */
  readonly command?: string | undefined
}

const names = { q35: 'qemu', microvm: 'qemu-microvm' } as const

export function createQemuDriver(options: QemuDriverOptions): Hypervisor {
  const program: QemuProgram = {
    command: options.command ?? 'qemu-system-x86_64',
    machineType: options.machineType,
    accelerator: options.accelerator,
  }
  const name = names[options.machineType]
  let version: Promise<string> | undefined
  const findVersion = (): Promise<string> => {
    version ??= qemuVersion(program.command)
    version.catch(() => (version = undefined))
    return version
  }
  const stamp = async (): Promise<VersionStamp> => ({
    hypervisor: name,
    version: await findVersion(),
    machineType: options.machineType,
    accelerator: options.accelerator,
  })

  return {
    name,
    features: ['snapshots', 'standby', 'fork', 'pause'],
    maxVolumes: maxVolumes[options.machineType],
    transientFiles: [qemuFiles.qmp, qemuFiles.agent],
    memory: memorySnapshots(program, stamp),
    stamp,
    unavailable: () =>
      findVersion().then(
        () => undefined,
        (error: unknown) => messageOf(error),
      ),
    createDisk: (directory, sizeBytes) => createBase(options.layout, directory, sizeBytes),
    boot: (spec, signal) => startCold(program, spec, signal),
    async adopt(spec, process) {
      const found = adoptProcess(process)
      return found === undefined ? undefined : new QemuMachine(found, spec.directory)
    },
    async share(directory, target, withMemory) {
      if (withMemory) return linkImage(directory, target, await checkedManifest(directory))
      const image = await readManifest(directory)
      await linkLayers(directory, target, image?.lastLayer ?? (await lastLayer(directory)))
    },
    async materialise(payload, directory, withMemory) {
      if (withMemory) return linkImage(payload, directory, await checkedManifest(payload))
      const image = await readManifest(payload)
      await linkLayers(payload, directory, image?.lastLayer ?? (await lastLayer(payload)))
    },
  }
}

async function qemuVersion(command: string): Promise<string> {
  try {
    const { stdout } = await execa(command, ['--version'])
    const match = /version (\S+)/.exec(stdout)
    if (match?.[1] !== undefined) return match[1]
    throw new Error(`it says ${JSON.stringify(stdout.slice(0, 80))}`)
  } catch (cause) {
    throw new HypemanError('host_unavailable', `${command} can't be run; install qemu-system-x86 (npm run setup)`, { cause })
  }
}

function memorySnapshots(program: QemuProgram, stamp: () => Promise<VersionStamp>): MemorySnapshots {
  return {
    async capture(machine, spec, target, signal) {
      const qemu = asQemu(machine)
      const last = await lastLayer(spec.directory)
      const wasRunning = (await qemu.status(signal)) === 'running'
      await using undo = new AsyncDisposableStack()
      undo.defer(() => removeLayersAbove(spec.directory, last))
      await addLayer(spec.directory, last)
      const started = performance.now()
      undo.defer(async () => {
        if (wasRunning) await qemu.resume()
      })
      await qemu.pause()
      await qemu.command('xen-save-devices-state', { filename: `${target}/${stateFile}`, live: false }, signal)
      const saved = await savePages(qemu.process.pid, spec.memoryMib * 1024 ** 2, spec.directory, target)
      // The pivot comes last: if something before it fails, the disk is as it was.
      await qemu.command(
        'blockdev-snapshot-sync',
        { device: systemDisk, 'snapshot-file': layerName(last + 1), format: 'qcow2', mode: 'existing' },
        signal,
      )
      undo.move()
      if (wasRunning) await qemu.resume()
      const pausedMs = performance.now() - started
      await linkLayers(spec.directory, target, last)
      await finishImage(saved, spec.directory, target, last)
      return { pausedMs, memoryBytes: saved.bytes }
    },

    async suspend(machine, spec, signal): Promise<CaptureReport> {
      const qemu = asQemu(machine)
      const started = performance.now()
      const mapped = await mappedBase(qemu.process.pid, spec.memoryMib * 1024 ** 2)
      await using undo = new AsyncDisposableStack()
      undo.defer(() => forgetImage(spec.directory, mapped))
      await forgetImage(spec.directory, mapped)
      await qemu.command('xen-save-devices-state', { filename: stateFile, live: false }, signal)
      const saved = await savePages(qemu.process.pid, spec.memoryMib * 1024 ** 2, spec.directory, spec.directory)
      await finishImage(saved, spec.directory, spec.directory, await lastLayer(spec.directory))
      undo.move()
      return { pausedMs: performance.now() - started, memoryBytes: saved.bytes }
    },

    async restore(spec, wanted, signal) {
      const here = await stamp()
      const words = (one: VersionStamp): string => `${one.hypervisor} ${one.version} (${one.machineType}, ${one.accelerator})`
      if (here.version !== wanted.version || here.machineType !== wanted.machineType || here.accelerator !== wanted.accelerator)
        throw new HypemanError(
          'incompatible_version',
          `the memory image was written by ${words(wanted)}, here is ${words(here)}; start from the disks (target_state Stopped), or use the version that wrote it`,
        )
      return startFromImage(program, spec, signal)
    },

    async holdsMemory(directory) {
      return (await readManifest(directory)) !== undefined
    },
    discardMemory: (directory) => removeImage(directory),
    async consumeMemory(directory) {
      const image = await readManifest(directory)
      await removeImage(directory, image?.base)
    },
  }
}

async function forgetImage(directory: string, mapped: string): Promise<void> {
  await removeImage(directory, mapped)
  await keepOnlyBase(directory, mapped)
}

function asQemu(machine: Machine): QemuMachine {
  if (machine instanceof QemuMachine) return machine
  throw new TypeError('the machine is of another driver')
}
