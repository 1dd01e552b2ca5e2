// Cloud Hypervisor's driver on its stand-in with guests of paper.

import { createCloudHypervisorDriver } from '../../src/hypervisors/cloud-hypervisor/index.ts'
import type { Hypervisor } from '../../src/hypervisors/driver.ts'
import { filesIn as allIn, paperHost, type PaperHost } from './driver-host.ts'

export { tell } from './driver-host.ts'

export interface PaperCloudHypervisor extends PaperHost {
  /** A driver that starts another program, or has other knowledge of the host. */
  driverWith(options: {
    readonly whyNotOnDemand?: string
    readonly command?: string
    readonly pageHoles?: boolean
    readonly startLimitMs?: number
  }): Hypervisor
}

export async function paperCloudHypervisor(): Promise<PaperCloudHypervisor> {
  const driverOf = (
    layout: PaperHost['layout'],
    command: string,
    { whyNotOnDemand, pageHoles, startLimitMs }: Parameters<PaperCloudHypervisor['driverWith']>[0] = {},
  ): Hypervisor =>
    createCloudHypervisorDriver({
      layout,
      command,
      whyNoKvm: () => Promise.resolve(undefined),
      whyNotOnDemand,
      startLimitMs,
      kernelImage: (image) => Promise.resolve(image),
      ...(pageHoles === undefined ? {} : { pageHoles: () => Promise.resolve(pageHoles) }),
    })
  const host = await paperHost({ name: 'cloud-hypervisor', kernel: 'paper' }, driverOf)
  return { ...host, driverWith: ({ command = host.program, ...options }) => driverOf(host.layout, command, options) }
}

/** What lies there but sockets and logs. */
export function filesIn(directory: string): Promise<string[]> {
  return allIn(directory, ['ch.sock', 'vsock.sock'])
}
