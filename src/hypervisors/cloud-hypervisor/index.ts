// The Cloud Hypervisor driver. Recipes and hazards: README.md.

import type { DataLayout } from '../../files/layout.ts'
import { tellsPageHoles } from '../../files/sparse.ts'
import { findBinaries } from '../../platform/binaries.ts'
import { messageOf } from '../../platform/flow.ts'
import { adoptProcess, workingDirectory } from '../../platform/process.ts'
import type { Balloon, Hypervisor } from '../driver.ts'
import { addDiskParts, createDisk, exportDisk, growDisk, importDisk, linkDisk } from '../raw-disks.ts'
import { versionsOf } from '../versions.ts'
import { partOf } from './files.ts'
import { diskOf, linkImage } from './images.ts'
import { asCloudHypervisor, CloudHypervisorMachine } from './machine.ts'
import { memorySnapshots } from './memory-snapshots.ts'
import { resize } from './resize.ts'
import { startCold, type Host } from './start.ts'

export interface CloudHypervisorOptions extends Pick<Host, 'kernelImage' | 'startLimitMs'> {
  readonly layout: DataLayout
  /** Found on PATH unless absolute. */
  readonly command: string
  /** Why KVM can't be used here, in one sentence; undefined if it can. */
  readonly whyNoKvm: () => Promise<string | undefined>
  /** Why processes may not use userfaultfd; undefined if they may. */
  readonly whyNotOnDemand: string | undefined
  /** Whether the file system of a directory tells pages from holes beside them; by default it is asked. */
  readonly pageHoles?: ((directory: string) => Promise<boolean>) | undefined
}

/** Slots of its PCI bus less those of its own devices and ours. */
const MAX_VOLUMES = 20

export function createCloudHypervisorDriver(options: CloudHypervisorOptions): Hypervisor {
  const { layout, command, whyNoKvm, whyNotOnDemand, pageHoles = tellsPageHoles } = options
  const advice = 'install it (hypeman hypervisor install cloud-hypervisor@<version>), or have hypervisor.cloud_hypervisor name its program'
  const installed = { directory: layout.hypervisor('cloud-hypervisor'), program: 'cloud-hypervisor' }
  const binaries = findBinaries({ command, installed, pattern: /cloud-hypervisor v?(\S+)/, advice })
  const host: Host = {
    async whyNotOnDemand() {
      if (whyNotOnDemand !== undefined || (await pageHoles(layout.staging))) return whyNotOnDemand
      return 'the file system of the data directory does not tell written pages from holes beside them, so that its snapshots could not be completed'
    },
    kernelImage: options.kernelImage,
    startLimitMs: options.startLimitMs,
  }
  const versions = versionsOf(binaries, { hypervisor: 'cloud-hypervisor', machineType: 'pci', accelerator: 'kvm' })

  return {
    name: 'cloud-hypervisor',
    diskFormat: 'numbered-raw',
    features: [
      ...['snapshots', 'standby', 'fork', 'pause', 'hotplug-memory', ...(process.arch === 'x64' ? ['hotplug-cpu'] : [])],
      ...['balloon-control', 'vsock', 'disk-io-limit', 'disk-resize'],
    ],
    networks: ['tap'],
    maxVolumes: MAX_VOLUMES,
    memory: memorySnapshots(host, versions),
    balloon,
    resize,
    partOf,
    program: async () => (await binaries.usual()).path,
    stamp: versions.stamp,
    async unavailable(version) {
      try {
        await versions.programFor(version)
        return await whyNoKvm()
      } catch (error) {
        return messageOf(error)
      }
    },
    createDisk: (directory, sizeBytes) => createDisk(layout, directory, sizeBytes),
    addDiskParts: (directory, sizes) => addDiskParts(layout, directory, sizes),
    growDisk: (directory, sizeBytes) => growDisk(layout, directory, sizeBytes),
    exportDisk: async (directory, file, signal) => exportDisk(directory, await diskOf(directory), file, signal),
    importDisk,
    boot: async (spec, signal) => {
      const binary = await binaries.usual()
      return versions.onSameVersion(() => startCold(host, binary, spec, signal))
    },
    async adopt(spec, process) {
      // A record that was copied names the process of the instance that it was copied from.
      const found = (await workingDirectory(process.pid, spec.directory)) === spec.directory ? adoptProcess(process) : undefined
      if (found === undefined) return undefined
      const machine = new CloudHypervisorMachine(found, spec.directory, true)
      machine.endOnReset()
      return machine
    },
    share,
    materialise: (payload, directory, withMemory) => share(payload, directory, withMemory),
  }
}

/** Links what is frozen or stopped: whoever starts from either directory makes a disk of its own first. */
async function share(directory: string, target: string, withMemory: boolean): Promise<void> {
  if (withMemory) await linkImage(directory, target)
  else await linkDisk(directory, await diskOf(directory), target)
}

const balloon: Balloon = {
  async given(machine, signal) {
    const info = await asCloudHypervisor(machine).vmm.info(signal)
    const { size } = info?.config.memory ?? {}
    return size === undefined ? 0 : Math.max(0, size - (info?.memory_actual_size ?? size))
  },
  ask: (machine, bytes, signal) => asCloudHypervisor(machine).vmm.setBalloon(bytes, signal),
}
