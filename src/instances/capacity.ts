// What instances take of the host, and what a new one may have at most. Processors and memory are held by those whose VMM runs, disks by all.

import { HypemanError, type ErrorCode } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import type { Holding } from '../platform/capacity.ts'
import { isAlive } from '../platform/process.ts'
import type { InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import type { InstanceRecord } from './record.ts'
import type { InstanceStore } from './store.ts'

type Sizes = Pick<InstanceRecord, 'vcpus' | 'memoryBytes' | 'overlayBytes'>

/** Smallest guest and disk that work, in bytes. */
const LEAST_MEMORY = 64 * 1024 ** 2
const LEAST_OVERLAY = 16 * 1024 ** 2

/** What each instance holds at this moment, by its record and its process. */
export function* heldByInstances(store: Pick<InstanceStore, 'entries'>): Generator<Holding> {
  for (const entry of store.entries()) yield holdingOf(entry.record, hasVmm(entry))
}

/** One that could not be taken over after a restart of the server may run all the same. */
function hasVmm({ machine, record: { process } }: InstanceEntry): boolean {
  return machine !== undefined || (process !== null && isAlive(process))
}

function holdingOf(record: Sizes & Pick<InstanceRecord, 'id' | 'name'>, runs: boolean): Holding {
  const { id, name, vcpus, memoryBytes, overlayBytes } = record
  return { kind: 'instance', id, name, cpu: runs ? vcpus : 0, memory: runs ? memoryBytes : 0, disk: overlayBytes }
}

/** Takes what an instance will hold: its disk, and processors and memory if it is to run; `insufficient_resources` if the host has not that much left. */
export function reserveFor(
  { capacity }: Pick<InstanceContext, 'capacity'>,
  record: Sizes & Pick<InstanceRecord, 'id' | 'name'>,
  runs: boolean,
): Disposable {
  return capacity.reserve(holdingOf(record, runs))
}

/** Refuses a size that no new instance may have; with `code`, whatever is wrong with it. */
export function checkSizes({ settings }: Pick<InstanceContext, 'settings'>, sizes: Sizes, code?: ErrorCode): void {
  const { maxVcpus, maxMemoryBytes, maxOverlayBytes } = settings
  const { vcpus, memoryBytes, overlayBytes } = sizes
  if (vcpus > maxVcpus)
    throw new HypemanError(
      code ?? 'invalid_request',
      `vcpus: at most ${maxVcpus} on this server, not ${vcpus}; ask for fewer, or raise limits.max_vcpus_per_instance`,
    )
  if (memoryBytes > maxMemoryBytes)
    throw new HypemanError(
      code ?? 'invalid_size',
      `size: at most ${formatSize(maxMemoryBytes)} on this server; ask for less, or raise limits.max_memory_per_instance`,
    )
  if (memoryBytes < LEAST_MEMORY) throw new HypemanError(code ?? 'invalid_size', 'size: a guest needs at least 64MB')
  if (overlayBytes > maxOverlayBytes)
    throw new HypemanError(
      code ?? 'invalid_overlay_size',
      `overlay_size: at most ${formatSize(maxOverlayBytes)} on this server; ask for less, or raise limits.max_overlay_size`,
    )
  if (overlayBytes < LEAST_OVERLAY) throw new HypemanError(code ?? 'invalid_overlay_size', 'overlay_size: a disk needs at least 16MB')
}
