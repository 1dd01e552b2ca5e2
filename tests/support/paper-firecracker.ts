// Firecracker's driver on its stand-in with guests of paper.

import { createFirecrackerDriver } from '../../src/hypervisors/firecracker/index.ts'
import type { Jailing } from '../../src/hypervisors/firecracker/jailer.ts'
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
    readonly jailing?: Jailing
  }): Hypervisor
}

/** `root` is an existing directory, by default a temporary one. `jailing` is that of its own driver, and by default of others. */
export async function paperFirecracker(root?: string, ofAll: Jailing = 'off'): Promise<PaperFirecracker> {
  const driverOf = (
    layout: PaperHost['layout'],
    command: string,
    { whyNoKvm, pageHoles, startLimitMs, jailing = ofAll }: Parameters<PaperFirecracker['driverWith']>[0] = {},
  ): Hypervisor =>
    createFirecrackerDriver({
      layout,
      command,
      kernelImage: (image) => Promise.resolve(image),
      whyNoKvm: () => Promise.resolve(whyNoKvm),
      startLimitMs,
      jailing,
      ...(pageHoles === undefined ? {} : { pageHoles: () => Promise.resolve(pageHoles) }),
    })
  const host = await paperHost({ name: 'firecracker', kernel: smallElf(), root }, driverOf)
  return { ...host, driverWith: ({ command = host.program, ...options }) => driverOf(host.layout, command, options) }
}
