// The QEMU driver: `qemu` (q35, or virt on arm64) and `qemu-microvm`. Recipes and measurements: README.md.

import type { DataLayout } from '../../files/layout.ts'
import { messageOf } from '../../platform/flow.ts'
import { findBinaries } from '../../platform/binaries.ts'
import { emulators } from '../../platform/emulator.ts'
import { adoptProcess, workingDirectory } from '../../platform/process.ts'
import type { Hypervisor } from '../driver.ts'
import { versionsOf } from '../versions.ts'
import { addDiskParts } from './disk-parts.ts'
import {
  addLayer,
  createBase,
  exportRaw,
  growLayers,
  importRaw,
  lastLayer,
  layerNumber,
  linkLayers,
  refuseForeignLayers,
} from './layers.ts'
import { growLiveDisk } from './live-layer.ts'
import { QemuMachine } from './machine.ts'
import { machineKinds, type QemuMachineType } from './machines.ts'
import { memorySnapshots } from './memory-snapshots.ts'
import { checkedManifest, imagePart, lastLayerOf, linkImage } from './memory.ts'
import { startCold, type QemuProgram } from './start.ts'

export interface QemuDriverOptions {
  readonly machineType: QemuMachineType
  readonly accelerator: 'kvm' | 'tcg'
  readonly layout: DataLayout
  /** Found on PATH unless absolute. */
  readonly command?: string | undefined
  /** Rate of the host's time-stamp counter, if known. */
  readonly tscKhz?: number | undefined
  /** This process and its children may use userfaultfd: machines that booted can be saved while they run. */
  readonly live?: boolean | undefined
  /** Why they can't, for the note of a snapshot that makes one stand still. */
  readonly whyNotLive?: string | undefined
}

/** Directory of versions side by side, for all machine types: they are of one program. */
const directoryName = 'qemu'

export function createQemuDriver(options: QemuDriverOptions): Hypervisor {
  const { hypervisor: name, maxVolumes, processor } = machineKinds[options.machineType]
  const emulator = emulators[processor]
  const program: QemuProgram = {
    command: options.command ?? emulator.program,
    machineType: options.machineType,
    accelerator: options.accelerator,
    tscKhz: options.tscKhz,
    live: options.live,
    whyNotLive: options.whyNotLive,
  }
  const advice = `install ${emulator.debianPackage} (npm run setup)`
  const installed = { directory: options.layout.hypervisor(directoryName), program: emulator.program }
  const binaries = findBinaries({ command: program.command, installed, pattern: /version (\S+)/, advice })
  const versions = versionsOf(binaries, { hypervisor: name, machineType: options.machineType, accelerator: options.accelerator })

  return {
    name,
    diskFormat: 'qcow2-layers',
    features: ['snapshots', 'standby', 'fork', 'pause', 'disk-io-limit', 'disk-resize'],
    resize: { disk: growLiveDisk },
    networks: ['user', 'tap'],
    maxVolumes,
    memory: memorySnapshots(program, versions),
    partOf: (file) => imagePart(file) ?? (layerNumber(file) === undefined ? undefined : 'disk'),
    stamp: versions.stamp,
    unavailable: (version) =>
      versions.programFor(version).then(
        () => undefined,
        (error: unknown) => messageOf(error),
      ),
    refuseForeign: refuseForeignLayers,
    createDisk: (directory, sizeBytes) => createBase(options.layout, directory, sizeBytes),
    addDiskParts: (directory, sizes) => addDiskParts(options.layout, directory, sizes),
    growDisk: growLayers,
    exportDisk: (directory, file, signal) => exportRaw(directory, file, signal),
    importDisk: (directory, file) => importRaw(directory, file),
    boot: async (spec, signal) => {
      const { path: command, version } = await binaries.usual()
      return versions.onSameVersion(() => startCold({ ...program, command }, spec, version, signal))
    },
    async adopt(spec, process) {
      // A record that was copied names the process of the instance that it was copied from.
      const found = (await workingDirectory(process.pid, spec.directory)) === spec.directory ? adoptProcess(process) : undefined
      return found === undefined ? undefined : new QemuMachine(found, spec.directory, true)
    },
    async share(directory, target, withMemory) {
      if (withMemory) await linkImage(directory, target, await checkedManifest(directory))
      else await linkLayers(directory, target, await lastLayerOf(directory))
    },
    async materialise(payload, directory, withMemory) {
      await refuseForeignLayers(payload)
      const image = withMemory ? await checkedManifest(payload) : undefined
      // A payload holds no layer beyond its instant, so that a damaged image takes nothing from the disks.
      const last = image?.lastLayer ?? lastLayer(payload)
      if (image === undefined) await linkLayers(payload, directory, last)
      else await linkImage(payload, directory, image)
      await addLayer(directory, last, false)
    },
  }
}
