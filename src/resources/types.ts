// What may be asked of the host's resources, in the words of the wire.

import type { HostResources, ReclaimedMemory, ReclaimMemoryBody } from '../api/schemas/resources.ts'

export interface ResourceService {
  get(): HostResources
  /** Takes memory back from running guests for a while; `not_supported` if no hypervisor here can. */
  reclaim(body: ReclaimMemoryBody): Promise<ReclaimedMemory>
}
