// Sums of what VMMs have moved for their guests. A VMM counts since its own process began, and processes come and go: the sums only grow, by what each has counted since it was
// looked at last. What one moves after the last look at it is lost.

import type { InstanceEntry } from '../instances/index.ts'

/** How long a VMM may take to say what it has counted, in milliseconds. */
const ANSWER_LIMIT_MS = 2_000
/** VMMs that are asked at the same time. */
const AT_ONCE = 16

/** Bytes of one kind that the VMMs of one hypervisor have moved. */
interface TrafficSum {
  readonly hypervisor: string
  readonly kind: string
  readonly bytes: number
}

/** A look: asks all VMMs that count, and returns the sums since the first look. Take one at a time. */
export function sumTraffic(): (entries: readonly InstanceEntry[], signal: AbortSignal) => Promise<readonly TrafficSum[]> {
  const sums = new Map<string, TrafficSum>()
  const add = (hypervisor: string, kind: string, more: number): void => {
    const key = `${hypervisor} ${kind}`
    sums.set(key, { hypervisor, kind, bytes: (sums.get(key)?.bytes ?? 0) + more })
  }
  /** By process, what it had counted when it was looked at last; undefined before the first look. */
  let last: ReadonlyMap<string, Counts> | undefined

  return async (entries, signal) => {
    const now = new Map<string, Counts>()
    const look = async ({ machine, record: { hypervisor } }: InstanceEntry): Promise<void> => {
      if (machine?.traffic === undefined) return
      const key = `${machine.process.pid} ${machine.process.startTicks}`
      const before = last?.get(key)
      const counts = await countsOf(machine, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_LIMIT_MS)]))
      const isFirstLook = last === undefined
      if (isFirstLook || before !== undefined || counts !== undefined) now.set(key, { ...before, ...counts })
      // What was counted before the first look may have been told by the server's last process. A VMM that is new is told as a whole.
      const toldBefore = (kind: string, bytes: number): number => before?.[kind] ?? (isFirstLook || before !== undefined ? bytes : 0)
      for (const [kind, bytes] of Object.entries(counts ?? {})) add(hypervisor, kind, Math.max(0, bytes - toldBefore(kind, bytes)))
    }
    for (let first = 0; first < entries.length; first += AT_ONCE) {
      await Promise.all(entries.slice(first, first + AT_ONCE).map(look))
      signal.throwIfAborted()
    }
    last = now
    return [...sums.values()]
  }
}

type Counts = Readonly<Record<string, number>>

/** Undefined where the VMM does not say: it is asked again at the next look, and has counted on by then. */
async function countsOf(machine: NonNullable<InstanceEntry['machine']>, signal: AbortSignal): Promise<Counts | undefined> {
  const { network, disks } = (await machine.traffic?.(signal).catch(() => undefined)) ?? {}
  const counts = {
    ...(network === undefined ? {} : { network_received: network.receivedBytes, network_sent: network.sentBytes }),
    ...(disks === undefined ? {} : { disk_read: disks.readBytes, disk_written: disks.writtenBytes }),
  }
  return Object.keys(counts).length === 0 ? undefined : counts
}
