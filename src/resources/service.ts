// What the host has and to whom it is promised, for `GET /resources`: out of what is in memory, without a walk over the disk.

import type { HostResources, ReclaimedMemory, ReclaimMemoryBody } from '../api/schemas/resources.ts'
import { limitOf, sumOf, type Capacity, type Holding, type Resource, type Supply } from '../platform/capacity.ts'
import type { ServerConfig } from '../platform/config.ts'
import { linkBytesPerSecond } from './host.ts'
import type { ResourceService } from './types.ts'

type Status = HostResources['cpu']

/** The disks of an instance beside its own, and what bounds its traffic: in bytes a second, null for no limit. */
interface InstanceParts {
  readonly volumes: readonly { readonly volumeId: string }[]
  readonly diskBytesPerSecond: number | null
  readonly network:
    | { readonly kind: 'user' }
    | { readonly kind: 'tap'; readonly downloadBytesPerSecond: number | null; readonly uploadBytesPerSecond: number | null }
    | null
}

export interface ResourceOptions {
  readonly capacity: Pick<Capacity, 'holdings' | 'supplies'>
  readonly settings: Pick<ServerConfig, 'oversubscription' | 'capacity'>
  /** What an instance has beside what it holds. */
  readonly instanceOf: (id: string) => InstanceParts | undefined
  /** Asks the guests, on a host with so much memory. */
  readonly reclaim: (body: ReclaimMemoryBody, hostMemoryBytes: number) => Promise<ReclaimedMemory>
}

export function createResourceService({ capacity, settings, instanceOf, reclaim }: ResourceOptions): ResourceService {
  return {
    get() {
      const holdings = capacity.holdings()
      const supplies = capacity.supplies()
      const promised = (resource: Resource): Status => statusOf(resource, supplies[resource], sumOf(holdings, resource))
      const ioBytes = settings.capacity.disk_io
      return {
        cpu: promised('cpu'),
        memory: promised('memory'),
        disk: promised('disk'),
        network: rateStatus('network', settings.capacity.network ?? linkBytesPerSecond(), {
          ratio: settings.oversubscription.network,
          source: settings.capacity.network === undefined ? 'detected' : 'configured',
        }),
        ...(ioBytes === undefined
          ? {}
          : { disk_io: rateStatus('disk_io', ioBytes, { ratio: settings.oversubscription.disk_io, source: 'configured' }) }),
        allocations: allocationsOf(holdings, instanceOf),
        disk_breakdown: breakdownOf(holdings),
      }
    },
    reclaim: (body) => reclaim(body, capacity.supplies().memory.capacity),
  }
}

function statusOf(type: string, supply: Supply, allocated: number): Status {
  const limit = limitOf(supply)
  return {
    type,
    capacity: supply.capacity,
    effective_limit: limit,
    allocated,
    available: Math.max(0, limit - allocated),
    oversub_ratio: supply.ratio,
    source: supply.source,
  }
}

/** Nobody is promised bandwidth: the limits that instances have of it bound them, and reserve nothing. What is not known is 0, from no source. */
function rateStatus(type: string, bytesPerSecond: number | undefined, how: Pick<Supply, 'ratio' | 'source'>): Status {
  const { source, ...status } = statusOf(type, { capacity: bytesPerSecond ?? 0, ...how }, 0)
  return bytesPerSecond === undefined ? status : { ...status, source }
}

type Allocation = HostResources['allocations'][number]

function allocationsOf(holdings: readonly Holding[], instanceOf: ResourceOptions['instanceOf']): Allocation[] {
  const volumes = new Map(holdings.flatMap(({ kind, id, disk }) => (kind === 'volume' ? [[id, disk] as const] : [])))
  return holdings.flatMap(({ kind, id, name, cpu, memory, disk }) => {
    if (kind !== 'instance') return []
    const parts = instanceOf(id)
    const attached = (parts?.volumes ?? []).reduce((sum, { volumeId }) => sum + (volumes.get(volumeId) ?? 0), 0)
    return [{ instance_id: id, instance_name: name, cpu, memory_bytes: memory, disk_bytes: disk + attached, ...limitsOf(parts) }]
  })
}

function limitsOf(parts: InstanceParts | undefined): Pick<Allocation, 'network_download_bps' | 'network_upload_bps' | 'disk_io_bps'> {
  const tap = parts?.network?.kind === 'tap' ? parts.network : undefined
  const [down, up, io] = [tap?.downloadBytesPerSecond, tap?.uploadBytesPerSecond, parts?.diskBytesPerSecond].map(
    (limit) => limit ?? undefined,
  )
  return {
    ...(down === undefined ? {} : { network_download_bps: Math.round(down) }),
    ...(up === undefined ? {} : { network_upload_bps: Math.round(up) }),
    ...(io === undefined ? {} : { disk_io_bps: io }),
  }
}

function breakdownOf(holdings: readonly Holding[]): NonNullable<HostResources['disk_breakdown']> {
  const of = (wanted: Holding['kind']): number =>
    sumOf(
      holdings.filter(({ kind }) => kind === wanted),
      'disk',
    )
  return { images_bytes: of('image'), oci_cache_bytes: of('cache'), volumes_bytes: of('volume'), overlays_bytes: of('instance') }
}
