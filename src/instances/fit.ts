// Whether a hypervisor can run an instance as it is recorded: asked before anything is touched, where an instance gets its disks from elsewhere.

import { HypemanError } from '../api/errors.ts'
import type { Hypervisor } from '../hypervisors/driver.ts'
import type { InstanceContext } from './context.ts'
import { demandDiskLimit } from './machine.ts'
import { demandNetwork, forkedNetwork } from './network.ts'
import type { InstanceRecord } from './record.ts'

/**
 * `host_unavailable` where the hypervisor can't run here, `not_supported` for the first thing of the record that its machines can't have. `memoryOf` is the version that wrote the memory
 * which the machine goes on from: without one it boots.
 */
export async function demandFit(
  context: Pick<InstanceContext, 'hostNetwork'>,
  driver: Hypervisor,
  record: Pick<InstanceRecord, 'volumes' | 'diskBytesPerSecond' | 'network'>,
  memoryOf?: string,
): Promise<void> {
  await demandAvailable(driver, memoryOf)
  const { length } = record.volumes
  if (length > driver.maxVolumes)
    throw new HypemanError(
      'not_supported',
      `${driver.name} takes at most ${driver.maxVolumes} volumes, and here are ${length}; detach some first`,
    )
  demandDiskLimit(driver, record)
  if (record.network !== null) await demandNetwork(context, forkedNetwork(driver, record.network))
}

/** `host_unavailable` with the driver's own reason. */
export async function demandAvailable(driver: Hypervisor, memoryOf?: string): Promise<void> {
  const reason = await driver.unavailable(memoryOf)
  if (reason !== undefined) throw new HypemanError('host_unavailable', `${driver.name} can't run here: ${reason}`)
}
