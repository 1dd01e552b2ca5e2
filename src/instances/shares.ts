// What a new instance may read, write, receive and send that does not ask for a limit: the share that its processors are of the host's, where the
// operator has said how much the host has. It is kept in the instance's record, like a limit that was asked for.

import type { Hypervisor } from '../hypervisors/driver.ts'
import { limitOf, type Supply } from '../platform/capacity.ts'
import type { InstanceContext } from './context.ts'

/** Bytes per second that the host has, and how often they may be promised. */
export type RateSupply = Pick<Supply, 'capacity' | 'ratio'>

/** Rates that can be set, in bytes per second. */
interface Range {
  /** However small the share is. */
  readonly least: number
  readonly most: number
  /** A share is a multiple of that. */
  readonly unit: number
}

/** At least 4 MB/s: with 1 MB/s, the least that may be asked for, a guest only just boots in time. QEMU takes no more than the most. */
export const diskShares: Range = { least: 4 * 1024 ** 2, most: 1e15, unit: 1 }
/** At least 1 Mbps, in whole kilobits, which are easy to read. tc(8) takes no more than the most. */
export const bandwidthShares: Range = { least: 125_000, most: 1e12, unit: 125 }

/** Of the disks' throughput; null: no limit, since nobody has said how much there is, or the hypervisor can't hold a machine to one. */
export function diskShareOf(
  { settings, capacity }: Pick<InstanceContext, 'settings' | 'capacity'>,
  driver: Hypervisor,
  vcpus: number,
): number | null {
  if (settings.diskThroughput === undefined || !driver.features.includes('disk-io-limit')) return null
  return shareOf(settings.diskThroughput, capacity.supplies().cpu.capacity, vcpus, diskShares)
}

/** Of the bandwidth, in each direction, for an instance on a device of the host; null: no limit, since nobody has said how much there is, or the host can't set one. */
export async function bandwidthShareOf(
  { settings, capacity, hostNetwork, log }: Pick<InstanceContext, 'settings' | 'capacity' | 'hostNetwork' | 'log'>,
  vcpus: number,
): Promise<number | null> {
  if (settings.bandwidth === undefined) return null
  const reason = await hostNetwork.whyUnlimited()
  if (reason === undefined) return shareOf(settings.bandwidth, capacity.supplies().cpu.capacity, vcpus, bandwidthShares)
  log.warn({ reason }, 'a new instance gets no share of capacity.network, since bandwidth can not be limited here')
  return null
}

/** Instances that have as many processors together as the host share all that may be promised of the rate; one alone gets no more than there is. */
export function shareOf(rate: RateSupply, processors: number, vcpus: number, { least, most, unit }: Range): number {
  const share = Math.min((limitOf(rate) * vcpus) / processors, rate.capacity, most)
  return Math.max(least, Math.floor(share / unit) * unit)
}
