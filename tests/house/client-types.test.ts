// Holds our schemas against the types of the official client, at compile time: what we answer is what it expects, and what it can send is what we take.
// A line that does not fit is an error of the type check; the test itself only keeps this file in the suite.

import { test } from 'node:test'
import type Client from '@onkernel/hypeman'
import type * as Instances from '@onkernel/hypeman/resources/instances'
import type { z } from 'zod'
import type { capabilities, health } from '../../src/api/schemas/capabilities.ts'
import type { createImageBody, image, listImagesQuery, tagImageBody } from '../../src/api/schemas/image.ts'
import type {
  createInstanceBody,
  deleteInstanceQuery,
  forkInstanceBody,
  listInstancesQuery,
  logsQuery,
  standbyInstanceBody,
  startInstanceBody,
  statQuery,
  updateInstanceBody,
  waitQuery,
} from '../../src/api/schemas/instance-requests.ts'
import type { instance, instanceStats, pathInfo, waitResult } from '../../src/api/schemas/instance.ts'
import type { schedule, setScheduleBody } from '../../src/api/schemas/schedule.ts'
import type {
  createSnapshotBody,
  forkSnapshotBody,
  listSnapshotsQuery,
  restoreSnapshotBody,
  snapshot,
} from '../../src/api/schemas/snapshot.ts'
import type { createVolumeBody, createVolumeFromArchiveQuery, listVolumesQuery, volume } from '../../src/api/schemas/volume.ts'

/** JSON has no undefined: a field that may be undefined in memory is absent on the wire. */
type OnWire<T> = T extends readonly (infer Item)[]
  ? OnWire<Item>[]
  : T extends object
    ? { [Key in keyof T]: OnWire<Exclude<T[Key], undefined>> }
    : T

/** An error where the first does not fit the second. */
type Fits<Given extends Wanted, Wanted> = Given

/** In a query numbers and flags are text. */
type AsQuery<T> = { [Key in keyof T]: AsText<T[Key]> }
type AsText<T> = T extends string | undefined ? T : T extends number ? T | `${T}` : T extends boolean ? `${T}` : T extends object ? T : T

/** The schema of a query, whose numbers are converted from anything. */
type Query<Schema extends z.ZodType> = OnWire<z.input<Schema>>

// What we answer.
type Answers = [
  Fits<OnWire<z.output<typeof health>>, OnWire<Client.HealthCheckResponse>>,
  // In the client's types an interface and the class that fetches it share this name.
  Fits<OnWire<z.output<typeof capabilities>>, Omit<Client.Capabilities, 'get'>>,
  Fits<OnWire<z.output<typeof instance>>, Client.Instance>,
  Fits<OnWire<z.output<typeof instanceStats>>, Client.InstanceStats>,
  Fits<OnWire<z.output<typeof pathInfo>>, Client.PathInfo>,
  Fits<OnWire<z.output<typeof waitResult>>, Client.WaitForStateResponse>,
  Fits<OnWire<z.output<typeof snapshot>>, Client.Snapshot>,
  Fits<OnWire<z.output<typeof schedule>>, Instances.SnapshotSchedule>,
  Fits<OnWire<z.output<typeof image>>, Client.Image>,
  Fits<OnWire<z.output<typeof volume>>, Client.Volume>,
]

// What it can send in bodies.
type Bodies = [
  Fits<OnWire<Client.InstanceCreateParams>, z.input<typeof createInstanceBody>>,
  Fits<OnWire<Client.InstanceUpdateParams>, z.input<typeof updateInstanceBody>>,
  Fits<OnWire<Client.InstanceForkParams>, z.input<typeof forkInstanceBody>>,
  Fits<OnWire<Client.InstanceStandbyParams>, z.input<typeof standbyInstanceBody>>,
  Fits<OnWire<Client.InstanceStartParams>, z.input<typeof startInstanceBody>>,
  Fits<OnWire<Instances.SnapshotCreateParams>, z.input<typeof createSnapshotBody>>,
  Fits<OnWire<Omit<Instances.SnapshotRestoreParams, 'id'>>, z.input<typeof restoreSnapshotBody>>,
  Fits<OnWire<Instances.SnapshotScheduleUpdateParams>, z.input<typeof setScheduleBody>>,
  Fits<OnWire<Client.SnapshotForkParams>, z.input<typeof forkSnapshotBody>>,
  Fits<OnWire<Client.ImageCreateParams>, z.input<typeof createImageBody>>,
  Fits<OnWire<Client.ImageTagParams>, z.input<typeof tagImageBody>>,
  Fits<OnWire<Client.VolumeCreateParams>, z.input<typeof createVolumeBody>>,
]

// What it can ask in queries. `Unknown` can't be waited for.
type Queries = [
  Fits<AsQuery<OnWire<Client.InstanceListParams>>, Query<typeof listInstancesQuery>>,
  Fits<AsQuery<OnWire<Client.InstanceDeleteParams>>, Query<typeof deleteInstanceQuery>>,
  Fits<AsQuery<OnWire<Client.InstanceLogsParams>>, Query<typeof logsQuery>>,
  Fits<AsQuery<OnWire<Client.InstanceStatParams>>, Query<typeof statQuery>>,
  Fits<OnWire<Omit<Client.InstanceWaitParams, 'state'>>, Omit<Query<typeof waitQuery>, 'state'>>,
  Fits<Exclude<Client.InstanceWaitParams['state'], 'Unknown'>, z.input<typeof waitQuery>['state']>,
  Fits<OnWire<Client.SnapshotListParams>, Query<typeof listSnapshotsQuery>>,
  Fits<OnWire<Client.ImageListParams>, Query<typeof listImagesQuery>>,
  Fits<OnWire<Client.VolumeListParams>, Query<typeof listVolumesQuery>>,
  Fits<OnWire<Client.VolumeCreateFromArchiveParams>, Query<typeof createVolumeFromArchiveQuery>>,
]

test('what is on the wire fits the types of the official client', () => {
  // Checked by the compiler; tests/house/client-types.test.ts must be part of the type check for that.
  const checked: [Answers?, Bodies?, Queries?] = []
  void checked
})
