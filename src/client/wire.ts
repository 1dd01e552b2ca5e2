// The wire's types under the names that callers use, inferred from the schemas: nothing is written twice. Types only: no schema is loaded at run time.
// What is sent may leave out what the server has a default for.

import type { z } from 'zod'
import type { createImageBody } from '../api/schemas/image.ts'
import type { createInstanceBody, forkInstanceBody, startInstanceBody, updateInstanceBody } from '../api/schemas/instance-requests.ts'
import type { logsQuery } from '../api/schemas/instance-requests.ts'
import type { createPushBody } from '../api/schemas/push.ts'
import type { reclaimMemoryBody } from '../api/schemas/resources.ts'
import type { setScheduleBody } from '../api/schemas/schedule.ts'
import type { standbyInstanceBody } from '../api/schemas/snapshot-policy.ts'
import type { createSnapshotBody, forkSnapshotBody, listSnapshotsQuery, restoreSnapshotBody } from '../api/schemas/snapshot.ts'
import type { attachVolumeBody, createVolumeBody } from '../api/schemas/volume.ts'

export type { InstanceState, TargetState } from '../api/actions.ts'
export type { ImageEvent, InstanceEvent } from '../api/events.ts'
export type { AutoStandbyStatus } from '../api/schemas/auto-standby.ts'
export type { Capabilities } from '../api/schemas/capabilities.ts'
export type { Tags } from '../api/schemas/common.ts'
export type { ImageView as Image } from '../api/schemas/image.ts'
export type { InstanceStats, InstanceView as Instance, PathInfo, WaitResult } from '../api/schemas/instance.ts'
export type { PushView as Push } from '../api/schemas/push.ts'
export type { HostResources, ReclaimedMemory } from '../api/schemas/resources.ts'
export type { ScheduleView as Schedule } from '../api/schemas/schedule.ts'
export type { SnapshotKind, SnapshotView as Snapshot } from '../api/schemas/snapshot.ts'
export type { Unreadable } from '../api/schemas/unreadable.ts'
export type { SnapshotVerification, VerifyEvent } from '../api/schemas/verification.ts'
export type { VolumeView as Volume } from '../api/schemas/volume.ts'

/** What goes out is never changed on its way. */
type Sent<T> = T extends readonly (infer Item)[] ? readonly Sent<Item>[] : T extends object ? { readonly [K in keyof T]: Sent<T[K]> } : T

export type PullRequest = Sent<z.input<typeof createImageBody>>

export type ReclaimMemory = Sent<z.input<typeof reclaimMemoryBody>>

export type PushRequest = Sent<z.input<typeof createPushBody>>

export type InstanceCreate = Sent<z.input<typeof createInstanceBody>>
export type VolumeMount = NonNullable<InstanceCreate['volumes']>[number]
export type PortMapping = NonNullable<NonNullable<InstanceCreate['network']>['ports']>[number]
export type InstanceUpdate = Sent<z.input<typeof updateInstanceBody>>
export type StartRequest = Sent<z.input<typeof startInstanceBody>>
export type StandbyRequest = Sent<z.input<typeof standbyInstanceBody>>
export type ForkInstance = Sent<z.input<typeof forkInstanceBody>>
export type LogSource = z.output<typeof logsQuery>['source']

export type SnapshotCreate = Sent<z.input<typeof createSnapshotBody>>
export type SnapshotCompression = NonNullable<SnapshotCreate['compression']>
export type SnapshotQuery = Sent<z.input<typeof listSnapshotsQuery>>
export type RestoreSnapshot = Sent<z.input<typeof restoreSnapshotBody>>
export type ForkSnapshot = Sent<z.input<typeof forkSnapshotBody>>

export type SetSchedule = Sent<z.input<typeof setScheduleBody>>

export type VolumeAttach = Sent<z.input<typeof attachVolumeBody>>
export type VolumeCreate = Sent<z.input<typeof createVolumeBody>>
