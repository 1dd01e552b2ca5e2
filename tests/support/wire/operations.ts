// Every operation of the official client with our route and schemas. The compiler refuses a missing or unknown operation, an answer of ours that the client
// does not expect, and a request of the client that we do not take; tests/house/client-types.test.ts holds the rows against the routes and the client's sources.

import { z } from 'zod'
import { autoStandbyStatus } from '../../../src/api/schemas/auto-standby.ts'
import { build, buildEvent, buildEventsQuery, createBuildForm } from '../../../src/api/schemas/build.ts'
import { builder, createBuilderBody } from '../../../src/api/schemas/builder.ts'
import { capabilities, health } from '../../../src/api/schemas/capabilities.ts'
import { tagFilter } from '../../../src/api/schemas/common.ts'
import { availableDevice, createDeviceBody, device } from '../../../src/api/schemas/device.ts'
import { createImageBody, image, listImagesQuery, tagImageBody } from '../../../src/api/schemas/image.ts'
import { createIngressBody, ingress } from '../../../src/api/schemas/ingress.ts'
import {
  createInstanceBody,
  deleteInstanceQuery,
  forkInstanceBody,
  listInstancesQuery,
  logsQuery,
  startInstanceBody,
  statQuery,
  updateInstanceBody,
  waitQuery,
} from '../../../src/api/schemas/instance-requests.ts'
import { instance, instanceStats, pathInfo, waitResult } from '../../../src/api/schemas/instance.ts'
import { createPushBody, push } from '../../../src/api/schemas/push.ts'
import { hostResources, reclaimedMemory, reclaimMemoryBody } from '../../../src/api/schemas/resources.ts'
import { schedule, setScheduleBody } from '../../../src/api/schemas/schedule.ts'
import { standbyInstanceBody } from '../../../src/api/schemas/snapshot-policy.ts'
import {
  createSnapshotBody,
  forkSnapshotBody,
  listSnapshotsQuery,
  restoreSnapshotBody,
  snapshot,
} from '../../../src/api/schemas/snapshot.ts'
import {
  attachVolumeBody,
  createVolumeBody,
  createVolumeFromArchiveQuery,
  listVolumesQuery,
  volume,
} from '../../../src/api/schemas/volume.ts'
import type { ClientMethod } from './client.ts'
import type { Fits, Row } from './fits.ts'

type Table<Rows> = { readonly [Method in keyof Rows]: Fits<Method, Rows[Method]> } & Readonly<
  Record<Exclude<ClientMethod, keyof Rows>, Row>
>

function table<const Rows extends Readonly<Record<string, Row>>>(rows: Rows & Table<Rows>): Readonly<Record<string, Row>> {
  return rows
}

const nothing = z.null()
const byTags = z.object({ tags: tagFilter })
const ofSchedule = '/instances/:id/snapshot-schedule'

export const operations = table({
  'health.check': { at: 'GET /health', answer: health },
  'capabilities.get': { at: 'GET /capabilities', answer: capabilities },
  'resources.get': { at: 'GET /resources', answer: hostResources },
  'resources.reclaimMemory': { at: 'POST /resources/memory/reclaim', answer: reclaimedMemory, body: reclaimMemoryBody },

  'images.create': { at: 'POST /images', answer: image, body: createImageBody },
  'images.list': { at: 'GET /images', answer: z.array(image), query: listImagesQuery },
  'images.get': { at: 'GET /images/:name', answer: image },
  'images.delete': { at: 'DELETE /images/:name', answer: nothing },
  'images.tag': { at: 'POST /images/:name/tag', answer: image, body: tagImageBody },

  'instances.create': { at: 'POST /instances', answer: instance, body: createInstanceBody },
  'instances.list': { at: 'GET /instances', answer: z.array(instance), query: listInstancesQuery },
  'instances.get': { at: 'GET /instances/:id', answer: instance },
  'instances.update': { at: 'PATCH /instances/:id', answer: instance, body: updateInstanceBody },
  'instances.delete': { at: 'DELETE /instances/:id', answer: nothing, query: deleteInstanceQuery },
  'instances.fork': { at: 'POST /instances/:id/fork', answer: instance, body: forkInstanceBody },
  'instances.standby': { at: 'POST /instances/:id/standby', answer: instance, body: standbyInstanceBody },
  'instances.restore': { at: 'POST /instances/:id/restore', answer: instance },
  'instances.start': { at: 'POST /instances/:id/start', answer: instance, body: startInstanceBody },
  'instances.stop': { at: 'POST /instances/:id/stop', answer: instance },
  'instances.stat': { at: 'GET /instances/:id/stat', answer: pathInfo, query: statQuery },
  'instances.stats': { at: 'GET /instances/:id/stats', answer: instanceStats },
  'instances.wait': { at: 'GET /instances/:id/wait', answer: waitResult, query: waitQuery },
  'instances.logs': { at: 'GET /instances/:id/logs', answer: z.string(), query: logsQuery },
  'instances.autoStandby.status': { at: 'GET /instances/:id/auto-standby/status', answer: autoStandbyStatus },
  'instances.autoStandby.hold': { at: 'POST /instances/:id/auto-standby/hold', answer: autoStandbyStatus },
  'instances.volumes.attach': { at: 'POST /instances/:id/volumes/:volumeId', answer: instance, body: attachVolumeBody },
  'instances.volumes.detach': { at: 'DELETE /instances/:id/volumes/:volumeId', answer: instance },
  'instances.snapshots.create': { at: 'POST /instances/:id/snapshots', answer: snapshot, body: createSnapshotBody },
  'instances.snapshots.restore': { at: 'POST /instances/:id/snapshots/:snapshotId/restore', answer: instance, body: restoreSnapshotBody },
  'instances.snapshotSchedule.get': { at: `GET ${ofSchedule}`, answer: schedule },
  'instances.snapshotSchedule.update': { at: `PUT ${ofSchedule}`, answer: schedule, body: setScheduleBody },
  'instances.snapshotSchedule.delete': { at: `DELETE ${ofSchedule}`, answer: nothing },

  'snapshots.list': { at: 'GET /snapshots', answer: z.array(snapshot), query: listSnapshotsQuery },
  'snapshots.get': { at: 'GET /snapshots/:snapshotId', answer: snapshot },
  'snapshots.delete': { at: 'DELETE /snapshots/:snapshotId', answer: nothing },
  'snapshots.fork': { at: 'POST /snapshots/:snapshotId/fork', answer: instance, body: forkSnapshotBody },

  'volumes.create': { at: 'POST /volumes', answer: volume, body: createVolumeBody },
  'volumes.list': { at: 'GET /volumes', answer: z.array(volume), query: listVolumesQuery },
  'volumes.get': { at: 'GET /volumes/:id', answer: volume },
  'volumes.delete': { at: 'DELETE /volumes/:id', answer: nothing },
  'volumes.createFromArchive': { at: 'POST /volumes/from-archive', answer: volume, query: createVolumeFromArchiveQuery },

  'devices.create': { at: 'POST /devices', answer: device, body: createDeviceBody },
  'devices.list': { at: 'GET /devices', answer: z.array(device), query: byTags },
  'devices.retrieve': { at: 'GET /devices/:id', answer: device },
  'devices.delete': { at: 'DELETE /devices/:id', answer: nothing },
  'devices.listAvailable': { at: 'GET /devices/available', answer: z.array(availableDevice) },

  'ingresses.create': { at: 'POST /ingresses', answer: ingress, body: createIngressBody },
  'ingresses.list': { at: 'GET /ingresses', answer: z.array(ingress), query: byTags },
  'ingresses.get': { at: 'GET /ingresses/:id', answer: ingress },
  'ingresses.delete': { at: 'DELETE /ingresses/:id', answer: nothing },

  'builds.create': { at: 'POST /builds', answer: build, body: createBuildForm },
  'builds.list': { at: 'GET /builds', answer: z.array(build), query: byTags },
  'builds.get': { at: 'GET /builds/:id', answer: build },
  'builds.cancel': { at: 'DELETE /builds/:id', answer: nothing },
  'builds.events': { at: 'GET /builds/:id/events', answer: buildEvent, query: buildEventsQuery },

  'builders.create': { at: 'POST /builders', answer: builder, body: createBuilderBody },
  'builders.list': { at: 'GET /builders', answer: z.array(builder), query: byTags },
  'builders.get': { at: 'GET /builders/:id', answer: builder },
  'builders.delete': { at: 'DELETE /builders/:id', answer: nothing },
  'builders.prune': { at: 'POST /builders/:id/prune', answer: builder },

  'pushes.create': { at: 'POST /pushes', answer: push, body: createPushBody },
  'pushes.list': { at: 'GET /pushes', answer: z.array(push) },
  'pushes.get': { at: 'GET /pushes/:id', answer: push },
})
