// Cloud Hypervisor's counters, by the names that the real one gives them. The description fixes their form alone.

import type { Configuration } from './cloud-hypervisor-config.ts'
import type { GuestTraffic } from './traffic.ts'

/** The real one's smallest latency before it has measured one: the largest number of 64 bits. */
const NEVER_MEASURED = Number(2n ** 64n - 1n)

export function countersOf(config: Configuration, { disks, network }: GuestTraffic): Readonly<Record<string, Record<string, number>>> {
  const ofDisks = (config.disks ?? []).map(({ id }, place) => {
    const { readBytes = 0, writtenBytes = 0, reads = 0, writes = 0 } = disks[place] ?? {}
    const counts = { read_bytes: readBytes, write_bytes: writtenBytes, read_ops: reads, write_ops: writes }
    return [id ?? `_disk${place}`, { ...counts, read_latency_min: NEVER_MEASURED, write_latency_min: NEVER_MEASURED }] as const
  })
  const ofNetwork = (config.net ?? []).slice(0, 1).map(({ id }) => {
    const { receivedBytes = 0, sentBytes = 0, received = 0, sent = 0 } = network ?? {}
    return [id ?? '_net0', { rx_bytes: receivedBytes, rx_frames: received, tx_bytes: sentBytes, tx_frames: sent }] as const
  })
  return Object.fromEntries([...ofDisks, ...ofNetwork])
}
