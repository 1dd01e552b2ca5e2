// Firecracker's driver on its stand-in with guests of paper.

import { createFirecrackerDriver } from '../../src/hypervisors/firecracker/index.ts'
import type { Hypervisor } from '../../src/hypervisors/driver.ts'
import { paperHost, type PaperHost } from './driver-host.ts'
import { smallElf } from './kernel-file.ts'

export { filesIn, tell } from './driver-host.ts'

export interface PaperFirecracker extends PaperHost {
  /** A driver that starts another program, or has other knowledge of the host. */
  driverWith(options: {
    readonly command?: string
    readonly whyNoKvm?: string
    readonly pageHoles?: boolean
    readonly startLimitMs?: number
  }): Hypervisor
}

/** `root` is an existing directory, by default a temporary one. */
export async function paperFirecracker(root?: string): Promise<PaperFirecracker> {
  const driverOf = (
    layout: PaperHost['layout'],
    command: string,
    { whyNoKvm, pageHoles, startLimitMs }: Parameters<PaperFirecracker['driverWith']>[0] = {},
  ): Hypervisor =>
    createFirecrackerDriver({
      layout,
      command,
      kernelImage: (image) => Promise.resolve(image),
      whyNoKvm: () => Promise.resolve(whyNoKvm),
      startLimitMs,
      ...(pageHoles === undefined ? {} : { pageHoles: () => Promise.resolve(pageHoles) }),
    })
  const host = await paperHost({ name: 'firecracker', kernel: smallElf(), root }, driverOf)
  return { ...host, driverWith: ({ command = host.program, ...options }) => driverOf(host.layout, command, options) }
}
