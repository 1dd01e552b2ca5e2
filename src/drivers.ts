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
export const makeHostDrivers: MakeDrivers = async (layout, log, config) => [
  ...(await qemuDrivers(layout, log, config)),
  cloudHypervisorDriver(layout, config),
  createFirecrackerDriver({ layout, command: config.hypervisor.firecracker, whyNoKvm: () => whyNoKvm(config) }),
  createVzDriver({ layout, command: config.hypervisor.vz }),
]

/** Of those whose programs can be installed beside each other. */
export const hypervisorReleases: readonly Release[] = [cloudHypervisorRelease, firecrackerRelease]

function cloudHypervisorDriver(layout: DataLayout, config: ServerConfig): Hypervisor {
  return createCloudHypervisorDriver({
    layout,
    command: config.hypervisor.cloud_hypervisor,
    whyNoKvm: () => whyNoKvm(config),
    whyNotOnDemand: whyNotCatchWrites(),
    kernelImage: (kernel) => uncompressedKernel(layout, kernel, process.arch === 'arm64' ? 'arm64' : 'x64'),
  })
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
