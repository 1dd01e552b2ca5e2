// What a running instance takes of the host: read from its VMM process (proc(5)); traffic from the guest itself, since in user mode
// no host interface counts it.

import { readFile } from 'node:fs/promises'
import type { InstanceStats } from '../api/schemas/instance.ts'
import { cpuTicksOf } from '../platform/process.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { agentOf } from './machine.ts'

/** USER_HZ and the page size of x86-64 and arm64 Linux; sysconf(3). */
const TICKS_PER_SECOND = 100
const PAGE_BYTES = 4096

export async function statsOf(context: InstanceContext, entry: InstanceEntry, signal: AbortSignal): Promise<InstanceStats> {
  const { record, machine } = entry
  const usage = machine === undefined ? nothing : await usageOf(machine.process.pid)
  const traffic =
    (await entry.observe()).state === 'Running' && !record.skipGuestAgent ? await trafficOf(context, entry, signal) : undefined
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

interface Usage {
  readonly cpuSeconds: number
  readonly residentBytes: number
  readonly virtualBytes: number
  /** Undefined where the kernel does not tell. */
  readonly shares: Shares | undefined
}

interface Shares {
  readonly privateBytes: number
  readonly sharedBytes: number
  readonly proportionalBytes: number
}

const nothing: Usage = { cpuSeconds: 0, residentBytes: 0, virtualBytes: 0, shares: undefined }

async function usageOf(pid: number): Promise<Usage> {
  try {
    const [pages = '0', residentPages = '0'] = (await readFile(`/proc/${pid}/statm`, 'utf8')).split(' ')
    return {
      cpuSeconds: (cpuTicksOf(pid) ?? 0) / TICKS_PER_SECOND,
      residentBytes: Number(residentPages) * PAGE_BYTES,
      virtualBytes: Number(pages) * PAGE_BYTES,
      shares: await sharesOf(pid),
    }
  } catch {
    return nothing // the process has just ended
  }
}

/** proc(5), smaps_rollup; readable by who may trace the process. */
async function sharesOf(pid: number): Promise<Shares | undefined> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => undefined) // not on this kernel, or not for us
  if (text === undefined) return undefined
  const bytes = (name: string): number => Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024
  return {
    privateBytes: bytes('Private_Clean') + bytes('Private_Dirty'),
    sharedBytes: bytes('Shared_Clean') + bytes('Shared_Dirty'),
    proportionalBytes: bytes('Pss'),
  }
}

async function trafficOf(
  context: InstanceContext,
  entry: InstanceEntry,
  signal: AbortSignal,
): Promise<{ readonly receivedBytes: number; readonly sentBytes: number }> {
  const { networkReceivedBytes, networkSentBytes } = await (await agentOf(entry, context, signal)).stats(signal)
  return { receivedBytes: networkReceivedBytes, sentBytes: networkSentBytes }
}
