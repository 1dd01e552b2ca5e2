// The services behind the HTTP server as plain maps: enough that every route has something to answer, and tests see what was asked. No rule of the product is here.

import { buffer } from 'node:stream/consumers'
import { HypemanError } from '../../src/api/errors.ts'
import type { InstanceEvent } from '../../src/api/events.ts'
import type { CreateInstanceBody } from '../../src/api/schemas/instance-requests.ts'
import type { InstanceView } from '../../src/api/schemas/instance.ts'
import type { PushView } from '../../src/api/schemas/push.ts'
import type { ScheduleView } from '../../src/api/schemas/schedule.ts'
import type { SnapshotView } from '../../src/api/schemas/snapshot.ts'
import type { Unreadable } from '../../src/api/schemas/unreadable.ts'
import type { VolumeView } from '../../src/api/schemas/volume.ts'
import type { Image, ImageProgress } from '../../src/images/types.ts'
import type { RouteServices } from '../../src/server/routes/context.ts'
import { createFakeAgent, type FakeAgent } from './fake-agent.ts'
import { autoStandbyOff, imageOf, now, snapshotView, verified } from './fake-views.ts'

type Call = readonly [operation: string, ...args: unknown[]]

export interface FakeServices extends RouteServices {
  readonly agent: FakeAgent
  readonly instancesById: Map<string, InstanceView>
  readonly imagesByName: Map<string, Image>
  /** What was asked, in order. */
  readonly calls: Call[]
  /** Lines that logs yield; a function runs in their place. */
  logLines: readonly (string | (() => Promise<void>))[]
  events: readonly InstanceEvent[]
  progress: readonly ImageProgress[]
  /** Thrown by whatever is asked next of instances. */
  failNext: Error | undefined
  /** What can't be read. */
  damaged: readonly Unreadable[]
}

export function createFakeServices(): FakeServices {
  const calls: Call[] = []
  const instancesById = new Map<string, InstanceView>()
  const imagesByName = new Map<string, Image>()
  const snapshots = new Map<string, SnapshotView>()
  const schedules = new Map<string, ScheduleView>()
  const pushes = new Map<string, PushView>()
  const volumes = new Map<string, VolumeView>()
  const agent = createFakeAgent()
  const find = <T>(map: ReadonlyMap<string, T>, what: string, key: string): T => {
    const found = map.get(key)
    if (found === undefined) throw new HypemanError('not_found', `there is no ${what} ${key}`)
    return found
  }
  const noted = (...call: Call): void => {
    calls.push(call)
    const error = fakes.failNext
    fakes.failNext = undefined
    if (error !== undefined) throw error
  }
  const change = async (operation: string, ref: string, state: InstanceView['state'], body?: unknown): Promise<InstanceView> => {
    noted(operation, ref, body)
    const changed = { ...find(instancesById, 'instance', ref), state }
    instancesById.set(ref, changed)
    return changed
  }
  const add = (name: string, state: InstanceView['state']): InstanceView => {
    const view = instanceView(name, state)
    instancesById.set(name, view)
    return view
  }
  const fakes: FakeServices = {
    agent,
    calls,
    instancesById,
    imagesByName,
    logLines: [],
    events: [],
    progress: [],
    failNext: undefined,
    damaged: [],
    instances: {
      async create(body: CreateInstanceBody) {
        noted('create', body)
        return add(body.name, 'Initializing')
      },
      async list(filter) {
        noted('list', filter)
        return [...instancesById.values()]
      },
      async get(ref) {
        noted('get', ref)
        return find(instancesById, 'instance', ref)
      },
      update: async (ref, body) => change('update', ref, find(instancesById, 'instance', ref).state, body),
      async remove(ref, options) {
        noted('remove', ref, options)
        find(instancesById, 'instance', ref)
        instancesById.delete(ref)
      },
      start: (ref, body) => change('start', ref, 'Initializing', body),
      stop: (ref) => change('stop', ref, 'Stopped'),
      standby: (ref) => change('standby', ref, 'Standby'),
      restore: (ref) => change('restore', ref, 'Running'),
      async fork(ref, body) {
        noted('fork', ref, body)
        return add(body.name, find(instancesById, 'instance', ref).state)
      },
      attachVolume: (ref, volumeRef, body) => change('attach volume', ref, 'Stopped', { volumeRef, ...body }),
      detachVolume: (ref, volumeRef) => change('detach volume', ref, 'Stopped', { volumeRef }),
      async autoStandbyStatus(ref) {
        noted('autoStandbyStatus', ref)
        find(instancesById, 'instance', ref)
        return autoStandbyOff
      },
      async holdAwake(ref) {
        noted('holdAwake', ref)
        find(instancesById, 'instance', ref)
        return autoStandbyOff
      },
      occupy(ref) {
        find(instancesById, 'instance', ref)
        return { [Symbol.dispose]: () => undefined }
      },
      async wait(ref, state, timeoutMs, signal) {
        noted('wait', ref, state, timeoutMs)
        const found = find(instancesById, 'instance', ref)
        if (found.state === state) return { state, timed_out: false }
        const { promise, resolve, reject } = Promise.withResolvers<void>()
        const timer = setTimeout(resolve, timeoutMs)
        signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
        await promise.finally(() => clearTimeout(timer))
        return { state: found.state, timed_out: true }
      },
      async *logs(ref, query, signal) {
        noted('logs', ref, query)
        find(instancesById, 'instance', ref)
        try {
          for (const line of fakes.logLines) {
            if (typeof line === 'string') yield line
            else await line()
          }
          if (query.follow) await aborted(signal)
        } finally {
          calls.push(['logs ended'])
        }
      },
      async *events(ref, query, signal) {
        noted('events', ref, query)
        find(instancesById, 'instance', ref)
        yield* fakes.events
        if (query.follow) await aborted(signal)
      },
      async stat(ref, path, followLinks) {
        noted('stat', ref, path, followLinks)
        return agent.files.has(path) ? { exists: true, is_file: true, size: 1, mode: 0o644 } : { exists: false }
      },
      async stats(ref) {
        const found = find(instancesById, 'instance', ref)
        const zero = { cpu_seconds: 0.5, memory_rss_bytes: 1, memory_vms_bytes: 2, network_rx_bytes: 0, network_tx_bytes: 0 }
        return { instance_id: found.id, instance_name: found.name, allocated_vcpus: 2, allocated_memory_bytes: 3, ...zero }
      },
      async agent(ref, waitMs) {
        noted('agent', ref, waitMs)
        const found = find(instancesById, 'instance', ref)
        if (found.state !== 'Running' && waitMs === 0)
          throw new HypemanError('invalid_state', `instance must be running (current state: ${found.state})`)
        return agent
      },
    },
    snapshots: {
      async create(ref, body) {
        noted('snapshot', ref, body)
        const view = snapshotView(`snapshot${snapshots.size}`, find(instancesById, 'instance', ref), body.kind)
        snapshots.set(view.id, view)
        return view
      },
      async list(filter) {
        noted('list snapshots', filter)
        return [...snapshots.values()]
      },
      get: async (id) => find(snapshots, 'snapshot', id),
      async remove(id) {
        find(snapshots, 'snapshot', id)
        snapshots.delete(id)
      },
      restore: (ref, id, body) => change('restore snapshot', ref, 'Running', [find(snapshots, 'snapshot', id).id, body]),
      async *verify(id) {
        noted('verify', id)
        yield* verified(find(snapshots, 'snapshot', id).id)
      },
      async *verifyAll() {
        noted('verify all')
        for (const id of snapshots.keys()) yield* verified(id)
      },
      async fork(id, body) {
        noted('fork snapshot', id, body)
        find(snapshots, 'snapshot', id)
        return add(body.name, 'Running')
      },
    },
    schedules: {
      async set(ref, body) {
        noted('set schedule', ref, body)
        const times = { created_at: now, updated_at: now, next_run_at: now }
        const view = { instance_id: find(instancesById, 'instance', ref).id, interval: body.interval, retention: body.retention, ...times }
        schedules.set(ref, view)
        return view
      },
      get: async (ref) => find(schedules, 'snapshot schedule of', ref),
      async remove(ref) {
        find(schedules, 'snapshot schedule of', ref)
        schedules.delete(ref)
      },
    },
    images: {
      async pull(request) {
        noted('pull', request)
        const image = imageOf(request.name, 'pulling')
        imagesByName.set(image.name, image)
        return image
      },
      async importArchive(name, archive, tags) {
        const bytes = await buffer(archive)
        noted('import', name, bytes.length, tags)
        const image = imageOf(name, 'converting')
        imagesByName.set(name, image)
        return image
      },
      list: (filter) => {
        noted('list images', filter)
        return [...imagesByName.values()]
      },
      get: (name) => find(imagesByName, 'image', name),
      async tag(name, target) {
        const image = { ...find(imagesByName, 'image', name), name: target }
        imagesByName.set(target, image)
        return image
      },
      async remove(name) {
        find(imagesByName, 'image', name)
        imagesByName.delete(name)
      },
      async *progress(signal) {
        yield* fakes.progress
        await aborted(signal)
        calls.push(['progress ended'])
      },
    },
    pushes: {
      async create(request) {
        noted('push', request)
        const { image, target } = request
        const view = { id: `push${pushes.size}`, status: 'queued', image, target, digest: 'sha256:00', created_at: now } as const
        pushes.set(view.id, view)
        return view
      },
      list: () => [...pushes.values()],
      get: (id) => find(pushes, 'push', id),
    },
    volumes: {
      async create(body) {
        noted('create volume', body)
        const view = { id: body.id ?? `volume${volumes.size}`, name: body.name, size_gb: body.size_gb, created_at: now }
        volumes.set(view.id, view)
        return view
      },
      async createFromArchive(body, archive) {
        const bytes = await buffer(archive)
        noted('fill volume', { ...body }, bytes.length)
        return fakes.volumes.create(body)
      },
      list: async (filter) => {
        noted('list volumes', filter)
        return [...volumes.values()]
      },
      get: async (ref) => find(volumes, 'volume', ref),
      async remove(ref) {
        find(volumes, 'volume', ref)
        volumes.delete(ref)
      },
    },
    capabilities: async () => ({
      server: { version: 'test', api_version: '0.3.0' },
      host: { os: 'linux', arch: 'amd64' },
      default_runtime: { name: 'qemu', available: true },
      runtimes: [{ name: 'qemu', available: true, features: ['snapshots'] }],
      features: ['instances'],
      images: { default_platform: 'linux/amd64', platforms: ['linux/amd64'] },
      network: { model: 'nat', guest_to_guest: false },
    }),
    resources: {
      get: () => hostResources,
      reclaim: (body) => Promise.reject(new HypemanError('not_supported', `nobody gives ${body.reclaim_bytes} bytes back`)),
    },
    unreadable: () => fakes.damaged,
  }
  return fakes
}

const status = { type: 'any', capacity: 4, effective_limit: 8, allocated: 2, available: 6, oversub_ratio: 2, source: 'detected' } as const
const hostResources = {
  ...{ cpu: status, memory: status, disk: status, network: status },
  allocations: [{ instance_id: 'id-of-web', instance_name: 'web', cpu: 2, memory_bytes: 1024, disk_bytes: 2048 }],
}

export function instanceView(name: string, state: InstanceView['state']): InstanceView {
  return { id: `id-of-${name}`, name, image: 'docker.io/library/alpine:latest', state, created_at: now, expires_at: null, tags: { a: 'b' } }
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return
  const { promise, resolve } = Promise.withResolvers<void>()
  signal.addEventListener('abort', () => resolve(), { once: true })
  await promise
}
