// What Cloud Hypervisor's counters say of a machine's traffic. Pure.

import { z } from 'zod'
import type { Traffic } from '../driver.ts'
import type { VmCounters } from './api.ts'

/** A count, and a sum of counts: whatever is larger than a number tells exactly is none. */
const bytes = z.int().nonnegative()

/** Network devices count `rx_bytes` (to the guest) and `tx_bytes`, disks `read_bytes` and `write_bytes`: the sums over all devices of a kind. */
export function trafficOf(counters: VmCounters): Traffic {
  const network = sumOf(counters, ['rx_bytes', 'tx_bytes'])
  const disks = sumOf(counters, ['read_bytes', 'write_bytes'])
  return {
    ...(network === undefined ? {} : { network: { receivedBytes: network[0], sentBytes: network[1] } }),
    ...(disks === undefined ? {} : { disks: { readBytes: disks[0], writtenBytes: disks[1] } }),
  }
}

/** Undefined where no device has these counters, or one of them can't be used: a sum without it would be wrong. */
function sumOf(counters: VmCounters, [one, other]: readonly [string, string]): readonly [number, number] | undefined {
  const devices = Object.values(counters).filter((device) => one in device || other in device)
  if (devices.length === 0) return undefined
  const sums = [one, other].map((name) => devices.reduce((sum, device) => sum + (bytes.safeParse(device[name]).data ?? Number.NaN), 0))
  return z.tuple([bytes, bytes]).safeParse(sums).data
}
