// What may be asked of the host's resources, in the words of the wire.

import type { HostResources } from '../api/schemas/resources.ts'

export interface ResourceService {
  get(): HostResources
}
