// What the routes call: the services of the resources, behind their interfaces.

import type { Capabilities } from '../api/schemas/capabilities.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { ImageService } from '../images/types.ts'
import type { InstanceService } from '../instances/types.ts'
import type { PushService } from '../pushes/types.ts'
import type { ResourceService } from '../resources/types.ts'
import type { ScheduleService } from '../schedules/types.ts'
import type { SnapshotService } from '../snapshots/types.ts'
import type { VolumeService } from '../volumes/types.ts'

export type { InstanceService, ResourceService, ScheduleService, SnapshotService, VolumeService }

export interface Services {
  readonly instances: InstanceService
  readonly snapshots: SnapshotService
  readonly schedules: ScheduleService
  readonly images: ImageService
  readonly pushes: PushService
  readonly volumes: VolumeService
  readonly resources: ResourceService
  capabilities(): Promise<Capabilities>
  /** What lies in the data directory and can't be read. */
  unreadable(): readonly Unreadable[]
}
