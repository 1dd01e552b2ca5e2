// What a running instance takes of the host, as its VMM process shows it (vmm-usage.ts), and its traffic: as the VMM has counted it, where it does, else as the guest tells
// of its network, since in user mode no interface of the host counts it.

import type { InstanceStats } from '../api/schemas/instance.ts'
import type { Traffic } from '../hypervisors/driver.ts'
import { messageOf } from '../platform/flow.ts'
import { withinLimit } from './agent-limit.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf } from './machine.ts'
import { noUsage, usageOf } from './vmm-usage.ts'

/** How long the guest's numbers, or those of its VMM, are waited for, in milliseconds: the host's are worth more than an error. */
const TRAFFIC_LIMIT_MS = 3_000

export async function statsOf(
  context: InstanceContext,
  entry: InstanceEntry,
  signal: AbortSignal,
  limitMs = TRAFFIC_LIMIT_MS,
): Promise<InstanceStats> {
  const { record, machine } = entry
  const usage = machine === undefined ? noUsage : await usageOf(machine.process.pid)
  const counted = await countedOf(context, entry, signal, limitMs)
  const network = counted.network ?? (await networkOfGuest(context, entry, signal, limitMs))
  return {
    instance_id: record.id,
    instance_name: record.name,
    cpu_seconds: usage.cpuSeconds,
    memory_rss_bytes: usage.residentBytes,
    ...(usage.shares === undefined
      ? {}
      : {
          memory_private_bytes: usage.shares.privateBytes,
          memory_shared_bytes: usage.shares.sharedBytes,
          memory_pss_bytes: usage.shares.proportionalBytes,
        }),
    memory_vms_bytes: usage.virtualBytes,
    network_rx_bytes: network?.receivedBytes ?? 0,
    network_tx_bytes: network?.sentBytes ?? 0,
    ...(counted.disks === undefined ? {} : { disk_read_bytes: counted.disks.readBytes, disk_written_bytes: counted.disks.writtenBytes }),
    allocated_vcpus: record.vcpus,
    allocated_memory_bytes: record.memoryBytes,
    memory_utilization_ratio: usage.residentBytes / record.memoryBytes,
  }
}

/** What the VMM has counted; nothing where it does not count, or does not say. */
async function countedOf({ log }: InstanceContext, { id, machine }: InstanceEntry, signal: AbortSignal, limitMs: number): Promise<Traffic> {
  if (machine?.traffic === undefined) return {}
  try {
    return await machine.traffic(AbortSignal.any([signal, AbortSignal.timeout(limitMs)]))
  } catch (error) {
    signal.throwIfAborted()
    log.debug({ instance: id, error: messageOf(error) }, 'the VMM does not say what it has counted')
    return {}
  }
}

/** Undefined where the guest's agent does not answer, or must not be asked. */
async function networkOfGuest(
  context: InstanceContext,
  entry: InstanceEntry,
  signal: AbortSignal,
  limitMs: number,
): Promise<Traffic['network']> {
  if ((await entry.observe()).state !== 'Running' || entry.record.skipGuestAgent) return undefined
  try {
    const { networkReceivedBytes, networkSentBytes } = await withinLimit(entry, limitMs, signal, async (limited) =>
      (await agentOf(entry, context, limited)).stats(limited),
    )
    return { receivedBytes: networkReceivedBytes, sentBytes: networkSentBytes }
  } catch (error) {
    signal.throwIfAborted()
    context.log.debug({ instance: entry.id, error: messageOf(error) }, 'the guest does not say what it has sent and received')
    return undefined
  }
}
