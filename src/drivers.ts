// The hypervisors of a server: the only file that names concrete drivers.

import type { Logger } from 'pino'
import type { DataLayout } from './files/layout.ts'
import { uncompressedKernel } from './files/vmlinux.ts'
import type { Hypervisor } from './hypervisors/driver.ts'
import { createCloudHypervisorDriver } from './hypervisors/cloud-hypervisor/index.ts'
import { cloudHypervisorRelease } from './hypervisors/cloud-hypervisor/release.ts'
import { createFirecrackerDriver } from './hypervisors/firecracker/index.ts'
import { firecrackerRelease } from './hypervisors/firecracker/release.ts'
import { createQemuDriver } from './hypervisors/qemu/index.ts'
import { machineTypesOn } from './hypervisors/qemu/machines.ts'
import type { Release } from './hypervisors/release.ts'
import { createVzDriver } from './hypervisors/vz/index.ts'
import { judgeAccelerator } from './platform/accelerator.ts'
import type { ServerConfig } from './platform/config.ts'
import { whyNotCatchWrites } from './platform/host-rights.ts'
import { hostTscKhz } from './platform/tsc.ts'

/** Makes the hypervisors of a server whose data directory is its own by then. */
export type MakeDrivers = (layout: DataLayout, log: Logger, config: ServerConfig) => Promise<readonly Hypervisor[]>

/** All that there are, whether or not they can run here: each says so itself. */
export const makeHostDrivers: MakeDrivers = async (layout, log, config) => {
  const ofHost = { layout, kernelImage: kernelImages(layout), whyNoKvm: () => whyNoKvm(config) }
  const { firecracker, jailer, cloud_hypervisor: cloudHypervisor, vz } = config.hypervisor
  return [
    ...(await qemuDrivers(layout, log, config)),
    createCloudHypervisorDriver({ ...ofHost, command: cloudHypervisor, whyNotOnDemand: whyNotCatchWrites() }),
    createFirecrackerDriver({ ...ofHost, command: firecracker, jailing: jailer }),
    createVzDriver({ layout, command: vz }),
  ]
}

/** Of those whose programs can be installed beside each other. */
export const hypervisorReleases: readonly Release[] = [cloudHypervisorRelease, firecrackerRelease]

/** Unpacks each kernel once, for all hypervisors: kernels lie in directories named by their digests, so that a path tells what is there. */
function kernelImages(layout: DataLayout): (kernel: string) => Promise<string> {
  const kernels = new Map<string, Promise<string>>()
  return (kernel) => {
    const made = kernels.get(kernel) ?? uncompressedKernel(layout, kernel, process.arch === 'arm64' ? 'arm64' : 'x64')
    kernels.set(kernel, made)
    made.catch(() => kernels.delete(kernel))
    return made
  }
}

/** Of hypervisors that can't do without it. */
async function whyNoKvm({ hypervisor }: ServerConfig): Promise<string | undefined> {
  if (!hypervisor.needs_kvm) return undefined
  const { accelerator, reason } = await judgeAccelerator()
  return accelerator === 'kvm' ? undefined : `KVM can't be used here: ${reason}`
}

async function qemuDrivers(layout: DataLayout, log: Logger, { snapshots }: ServerConfig): Promise<readonly Hypervisor[]> {
  const [verdict, tscKhz] = await Promise.all([judgeAccelerator(), hostTscKhz()])
  log.info(verdict, 'accelerator')
  const whyNotLive = snapshots.live ? whyNotCatchWrites() : 'snapshots.live is off'
  if (whyNotLive !== undefined) log.info({ reason: whyNotLive }, 'a machine that booted stands still while its memory is saved')
  return machineTypesOn(process.arch).map((machineType) =>
    createQemuDriver({ machineType, accelerator: verdict.accelerator, tscKhz, layout, live: whyNotLive === undefined, whyNotLive }),
  )
}
