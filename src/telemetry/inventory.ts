// Metrics of what there is: instances, snapshots, forks, the memory of the VMMs, and what of the host is promised. A scrape reads what is in memory; whatever has to be asked of
// processes or read from disk is looked at in the background and told as it was last seen (sampled.ts).

import { Counter, Gauge, type Registry } from 'prom-client'
import type { DataLayout } from '../files/layout.ts'
import { usageOf, type InstanceEntry, type InstanceStore, type Spares } from '../instances/index.ts'
import { limitOf, resources, sumOf, type Capacity } from '../platform/capacity.ts'
import { SnapshotUsage, type SnapshotStore } from '../snapshots/index.ts'
import { Sampled } from './sampled.ts'
import { sumTraffic } from './traffic.ts'

/** Younger looks at states, memory and disk are good enough, in milliseconds. To read how much memory a VMM has takes the kernel milliseconds. */
const FRESH_MS = { states: 1_000, memory: 15_000, traffic: 15_000, disk: 1_000 } as const
/** A scrape waits at most this long for a look, in milliseconds. */
const PATIENCE_MS = 500
/** VMMs that are asked at the same time. */
const STATES_AT_ONCE = 32
const MEMORY_AT_ONCE = 2

export interface InventoryOptions {
  readonly layout: DataLayout
  readonly instances: Pick<InstanceStore, 'entries'>
  readonly snapshots: Pick<SnapshotStore, 'list' | 'byId'>
  readonly capacity: Pick<Capacity, 'holdings' | 'supplies'>
  readonly spares: Pick<Spares, 'ready'>
  readonly failed: (what: string, error: unknown) => void
}

interface VmmMemory {
  vmms: number
  resident: number
  proportional: number
  private: number
}

/** Adds the metrics to the registry; nothing is looked at before somebody scrapes. */
export function describeInventory(
  registry: Registry,
  { layout, instances, snapshots, capacity, spares, failed }: InventoryOptions,
): Disposable {
  const registers = [registry]
  using undo = new DisposableStack()
  const sampled = <T>(what: keyof typeof FRESH_MS, look: (signal: AbortSignal) => Promise<T>): Sampled<T> =>
    undo.use(new Sampled({ look, freshMs: FRESH_MS[what], patienceMs: PATIENCE_MS, failed: (error) => failed(what, error) }))

  const states = sampled('states', () => countStates([...instances.entries()]))
  new Gauge({
    name: 'hypeman_instances',
    help: 'Instances by state and hypervisor',
    labelNames: ['state', 'hypervisor'],
    registers,
    async collect() {
      const counts = await states.value()
      if (counts === undefined) return
      this.reset()
      for (const [state, hypervisor, count] of counts) this.set({ state, hypervisor }, count)
    },
  })
  new Gauge({
    name: 'hypeman_forks',
    help: 'Instances that are forks, by what they were forked from',
    labelNames: ['source'],
    registers,
    collect() {
      const counts = { snapshot: 0, instance: 0 }
      for (const { record } of instances.entries())
        if (record.forkedFrom !== null) counts[record.forkedFrom.snapshotId === null ? 'instance' : 'snapshot'] += 1
      for (const [source, count] of Object.entries(counts)) this.set({ source }, count)
    },
  })
  new Gauge({
    name: 'hypeman_forks_loaded_ahead',
    help: 'VMM processes that have loaded a snapshot before anybody asked for a fork of it',
    registers,
    collect() {
      this.set(spares.ready)
    },
  })
  new Gauge({
    name: 'hypeman_reclaimed_memory_bytes',
    help: 'Memory that running guests were asked to give back for a while',
    registers,
    collect() {
      let bytes = 0
      for (const { record, machine } of instances.entries()) if (machine !== undefined) bytes += record.balloon?.bytes ?? 0
      this.set(bytes)
    },
  })
  const memory = sampled('memory', (signal) => readMemory([...instances.entries()], signal))
  new Gauge({
    name: 'hypeman_vmms',
    help: 'VMM processes that hypeman_vmm_memory_bytes is of',
    labelNames: ['hypervisor'],
    registers,
    async collect() {
      const seen = await memory.value()
      if (seen === undefined) return
      this.reset()
      for (const [hypervisor, { vmms }] of seen) this.set({ hypervisor }, vmms)
    },
  })
  new Gauge({
    name: 'hypeman_vmm_memory_bytes',
    help: 'Memory of all VMM processes: resident (shared pages in each), proportional (shared pages divided) and private (guest memory that no other has)',
    labelNames: ['hypervisor', 'kind'],
    registers,
    async collect() {
      const seen = await memory.value()
      if (seen === undefined) return
      this.reset()
      for (const [hypervisor, { vmms: _, ...bytes }] of seen)
        for (const [kind, value] of Object.entries(bytes)) this.set({ hypervisor, kind }, value)
    },
  })
  const look = sumTraffic()
  const traffic = sampled('traffic', (signal) => look([...instances.entries()], signal))
  new Counter({
    name: 'hypeman_vmm_traffic_bytes_total',
    help: 'What VMMs have moved for their guests while the server ran, where they count it: over the network, from disks and to disks',
    labelNames: ['hypervisor', 'kind'],
    registers,
    async collect() {
      const sums = await traffic.value()
      if (sums === undefined) return
      this.reset()
      for (const { hypervisor, kind, bytes } of sums) this.inc({ hypervisor, kind }, bytes)
    },
  })
  const usage = new SnapshotUsage(layout, snapshots)
  const disk = sampled('disk', (signal) => usage.refresh(signal))
  describeCapacity(registers, capacity)
  describeSnapshots(registers, snapshots, async () => {
    await disk.value()
    return usage.totals()
  })
  const kept = undo.move()
  return { [Symbol.dispose]: () => kept.dispose() }
}

function describeCapacity(registers: Registry[], capacity: InventoryOptions['capacity']): void {
  new Gauge({
    name: 'hypeman_resource_limit',
    help: 'What may be promised of the host: virtual processors, and bytes of memory and disk',
    labelNames: ['resource'],
    registers,
    collect() {
      const supplies = capacity.supplies()
      for (const resource of resources) this.set({ resource }, limitOf(supplies[resource]))
    },
  })
  new Gauge({
    name: 'hypeman_resource_allocated',
    help: 'What of that is promised',
    labelNames: ['resource'],
    registers,
    collect() {
      const holdings = capacity.holdings()
      for (const resource of resources) this.set({ resource }, sumOf(holdings, resource))
    },
  })
}

function describeSnapshots(
  registers: Registry[],
  snapshots: Pick<SnapshotStore, 'list'>,
  totals: () => Promise<ReturnType<SnapshotUsage['totals']>>,
): void {
  const sums = () => {
    const found = { Standby: { count: 0, bytes: 0 }, Stopped: { count: 0, bytes: 0 } }
    for (const { kind, sizeBytes } of snapshots.list()) {
      found[kind].count += 1
      found[kind].bytes += sizeBytes
    }
    return Object.entries(found)
  }
  new Gauge({
    name: 'hypeman_snapshots',
    help: 'Snapshots by kind',
    labelNames: ['kind'],
    registers,
    collect() {
      for (const [kind, { count }] of sums()) this.set({ kind }, count)
    },
  })
  new Gauge({
    name: 'hypeman_snapshot_logical_bytes',
    help: 'Sum of the sizes of the files of all snapshots; holes count, and shared files in each',
    labelNames: ['kind'],
    registers,
    collect() {
      for (const [kind, { bytes }] of sums()) this.set({ kind }, bytes)
    },
  })
  new Gauge({
    name: 'hypeman_snapshot_physical_bytes',
    help: 'What the files of all snapshots take on disk, each file once',
    registers,
    async collect() {
      this.set((await totals()).physicalBytes)
    },
  })
  new Gauge({
    name: 'hypeman_snapshots_measured',
    help: 'Snapshots that hypeman_snapshot_physical_bytes is of; as many as there are once all have been looked at',
    registers,
    async collect() {
      this.set((await totals()).measured)
    },
  })
}

type StateCount = readonly [state: string, hypervisor: string, count: number]

async function countStates(entries: readonly InstanceEntry[]): Promise<readonly StateCount[]> {
  const counts = new Map<string, StateCount>()
  await forEach(entries, STATES_AT_ONCE, async (entry) => {
    const { state } = await entry.observe()
    const { hypervisor } = entry.record
    const [, , count] = counts.get(`${state} ${hypervisor}`) ?? [state, hypervisor, 0]
    counts.set(`${state} ${hypervisor}`, [state, hypervisor, count + 1])
  })
  return [...counts.values()]
}

async function readMemory(entries: readonly InstanceEntry[], signal: AbortSignal): Promise<ReadonlyMap<string, VmmMemory>> {
  const sums = new Map<string, VmmMemory>()
  await forEach(entries, MEMORY_AT_ONCE, async ({ machine, record }) => {
    signal.throwIfAborted()
    if (machine === undefined) return
    const { residentBytes, shares } = await usageOf(machine.process.pid)
    const sum = sums.get(record.hypervisor) ?? { vmms: 0, resident: 0, proportional: 0, private: 0 }
    sums.set(record.hypervisor, sum)
    sum.vmms += 1
    sum.resident += residentBytes
    sum.proportional += shares?.proportionalBytes ?? 0
    sum.private += shares?.privateBytes ?? 0
  })
  return sums
}

/** Calls `act` for each, a few at a time. */
async function forEach<T>(items: readonly T[], atOnce: number, act: (item: T) => Promise<void>): Promise<void> {
  const rest = items.values()
  const work = async (): Promise<void> => {
    for (const item of rest) await act(item)
  }
  await Promise.all(Array.from({ length: atOnce }, work))
}
