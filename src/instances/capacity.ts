// What instances take of the host, and what a new one may have at most. Processors and memory are held by those whose VMM runs, disks by all.

import { HypemanError } from '../api/errors.ts'
import { formatSize } from '../api/units.ts'
import type { Holding } from '../platform/capacity.ts'
import { messageOf } from '../platform/flow.ts'
import type { InstanceContext } from './context.ts'
import { checkDiskSize, type WantedVolume } from './overlays.ts'
import type { InstanceRecord } from './record.ts'
import type { InstanceStore } from './store.ts'

type Sizes = Pick<InstanceRecord, 'vcpus' | 'memoryBytes' | 'overlayBytes'>

/** A volume that an instance has or shall have, with the layer over it. */
type Layered = Pick<InstanceRecord['volumes'][number], 'overlay'> | Pick<WantedVolume, 'layerBytes'>

interface Claim extends Sizes, Pick<InstanceRecord, 'id' | 'name'> {
  readonly volumes: readonly Layered[]
}

/** Smallest guest that works, in bytes. */
const LEAST_MEMORY = 64 * 1024 ** 2

/** What each instance holds at this moment, by its record and its process. */
export function* heldByInstances(store: Pick<InstanceStore, 'entries'>): Generator<Holding> {
  for (const entry of store.entries()) yield holdingOf(entry.record, entry.mayHaveVmm)
}

function holdingOf({ id, name, vcpus, memoryBytes, overlayBytes, volumes }: Claim, runs: boolean): Holding {
  const layers = volumes.reduce((sum, volume) => sum + layerBytesOf(volume), 0)
  return { kind: 'instance', id, name, cpu: runs ? vcpus : 0, memory: runs ? memoryBytes : 0, disk: overlayBytes + layers }
}

function layerBytesOf(volume: Layered): number {
  return ('overlay' in volume ? volume.overlay?.sizeBytes : volume.layerBytes) ?? 0
}

/** Takes what an instance will hold: its disk with the layers over volumes, and processors and memory if it is to run; `insufficient_resources` if the host has not that much left. */
export function reserveFor({ capacity }: Pick<InstanceContext, 'capacity'>, record: Claim, runs: boolean): Disposable {
  return capacity.reserve(holdingOf(record, runs))
}

/** Refuses a size that no new instance may have. */
export function checkSizes({ settings }: Pick<InstanceContext, 'settings'>, { vcpus, memoryBytes, overlayBytes }: Sizes): void {
  const { maxVcpus, maxMemoryBytes } = settings
  if (vcpus > maxVcpus)
    throw new HypemanError(
      'invalid_request',
      `vcpus: at most ${maxVcpus} on this server, not ${vcpus}; ask for fewer, or raise limits.max_vcpus_per_instance`,
    )
  if (memoryBytes > maxMemoryBytes)
    throw new HypemanError(
      'invalid_size',
      `size: at most ${formatSize(maxMemoryBytes)} on this server; ask for less, or raise limits.max_memory_per_instance`,
    )
  if (memoryBytes < LEAST_MEMORY) throw new HypemanError('invalid_size', 'size: a guest needs at least 64MB')
  checkDiskSize(settings, overlayBytes)
}

/** Refuses a copy of what is larger than a new instance may be. */
export function checkCopy(context: Pick<InstanceContext, 'settings'>, sizes: Sizes): void {
  try {
    checkSizes(context, sizes)
  } catch (error) {
    throw new HypemanError('insufficient_resources', messageOf(error), { cause: error })
  }
}
