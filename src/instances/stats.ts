// What a running instance takes of the host, as its VMM process shows it (vmm-usage.ts); traffic from the guest itself, since in user mode
// no host interface counts it.

import type { InstanceStats } from '../api/schemas/instance.ts'
import { messageOf } from '../platform/flow.ts'
import { withinLimit } from './agent-limit.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf } from './machine.ts'
import { noUsage, usageOf } from './vmm-usage.ts'

/** How long the guest's own numbers are waited for, in milliseconds: the host's are worth more than an error. */
const TRAFFIC_LIMIT_MS = 3_000

export async function statsOf(
  context: InstanceContext,
  entry: InstanceEntry,
  signal: AbortSignal,
  limitMs = TRAFFIC_LIMIT_MS,
): Promise<InstanceStats> {
  const { record, machine } = entry
  const usage = machine === undefined ? noUsage : await usageOf(machine.process.pid)
  const traffic =
    (await entry.observe()).state === 'Running' && !record.skipGuestAgent ? await trafficOf(context, entry, signal, limitMs) : undefined
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
    network_rx_bytes: traffic?.receivedBytes ?? 0,
    network_tx_bytes: traffic?.sentBytes ?? 0,
    allocated_vcpus: record.vcpus,
    allocated_memory_bytes: record.memoryBytes,
    memory_utilization_ratio: usage.residentBytes / record.memoryBytes,
  }
}

interface Traffic {
  readonly receivedBytes: number
  readonly sentBytes: number
}

/** Undefined where the guest's agent does not answer. */
async function trafficOf(
  context: InstanceContext,
  entry: InstanceEntry,
  signal: AbortSignal,
  limitMs: number,
): Promise<Traffic | undefined> {
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
