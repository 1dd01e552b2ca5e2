// The server's operations as functions, typed by the wire's schemas. Exec and copy have connections of their own: exec.ts, copy.ts.
// Types only come from api/schemas: the schemas themselves would cost every start of the command line.

import { Http, type HttpOptions } from './http.ts'
import type {
  AutoStandbyStatus,
  Capabilities,
  ForkInstance,
  ForkSnapshot,
  HostResources,
  ReclaimedMemory,
  ReclaimMemory,
  Image,
  ImageEvent,
  Instance,
  InstanceCreate,
  InstanceEvent,
  InstanceState,
  InstanceStats,
  InstanceUpdate,
  LogSource,
  PathInfo,
  PullRequest,
  Push,
  PushRequest,
  RestoreSnapshot,
  Schedule,
  SetSchedule,
  Snapshot,
  SnapshotCreate,
  SnapshotQuery,
  StandbyRequest,
  StartRequest,
  Tags,
  Unreadable,
  VerifyEvent,
  Volume,
  VolumeAttach,
  VolumeCreate,
  WaitResult,
} from './wire.ts'

export type * from './wire.ts'

/** Ends a request early. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined
}

export type Client = ReturnType<typeof createClient>

export function createClient(options: HttpOptions) {
  const http = new Http(options)
  return {
    http,
    health: (call: CallOptions = {}) => http.json<{ readonly status: string }>('GET', '/health', call),
    capabilities: (call: CallOptions = {}) => http.json<Capabilities>('GET', '/capabilities', call),
    unreadable: (call: CallOptions = {}) => http.json<Unreadable[]>('GET', '/unreadable', call),
    resources: (call: CallOptions = {}) => http.json<HostResources>('GET', '/resources', call),
    reclaimMemory: (body: ReclaimMemory, call: CallOptions = {}) =>
      http.json<ReclaimedMemory>('POST', '/resources/memory/reclaim', { body, ...call }),
    images: imageOperations(http),
    pushes: pushOperations(http),
    instances: instanceOperations(http),
    snapshots: snapshotOperations(http),
    volumes: volumeOperations(http),
  }
}

function imageOperations(http: Http) {
  const at = (name: string): string => `/images/${encodeURIComponent(name)}`
  return {
    list: (query: { readonly tags?: Tags | undefined } = {}, call: CallOptions = {}) =>
      http.json<Image[]>('GET', '/images', { query, ...call }),
    get: (name: string, call: CallOptions = {}) => http.json<Image>('GET', at(name), call),
    /** Begins a pull; resolves when the registry has said what the name stands for. */
    pull: (body: PullRequest, call: CallOptions = {}) => http.json<Image>('POST', '/images', { body, ...call }),
    /** Makes an image from an OCI archive or the output of `docker save`. */
    import: (name: string, archive: AsyncIterable<Uint8Array>, tags?: Tags, call: CallOptions = {}) =>
      http.upload<Image>('POST', '/images/import', 'application/x-tar', archive, { query: { name, tags }, ...call }),
    /** Progress of everything that is being pulled or imported, until the signal aborts. */
    events: (call: CallOptions = {}) => http.events<ImageEvent>('/images/events', call),
    tag: (name: string, target: string, call: CallOptions = {}) =>
      http.json<Image>('POST', `${at(name)}/tag`, { body: { target }, ...call }),
    delete: (name: string, call: CallOptions = {}) => http.none('DELETE', at(name), call),
  }
}

function pushOperations(http: Http) {
  return {
    create: (body: PushRequest, call: CallOptions = {}) => http.json<Push>('POST', '/pushes', { body, ...call }),
    list: (call: CallOptions = {}) => http.json<Push[]>('GET', '/pushes', call),
    get: (id: string, call: CallOptions = {}) => http.json<Push>('GET', `/pushes/${encodeURIComponent(id)}`, call),
  }
}

function instanceOperations(http: Http) {
  const at = (id: string, verb?: string): string => `/instances/${encodeURIComponent(id)}${verb === undefined ? '' : `/${verb}`}`
  return {
    list: (query: { readonly state?: InstanceState | undefined; readonly tags?: Tags | undefined } = {}, call: CallOptions = {}) =>
      http.json<Instance[]>('GET', '/instances', { query, ...call }),
    get: (id: string, call: CallOptions = {}) => http.json<Instance>('GET', at(id), call),
    create: (body: InstanceCreate, call: CallOptions = {}) => http.json<Instance>('POST', '/instances', { body, ...call }),
    start: (id: string, body: StartRequest = {}, call: CallOptions = {}) => http.json<Instance>('POST', at(id, 'start'), { body, ...call }),
    update: (id: string, body: InstanceUpdate, call: CallOptions = {}) => http.json<Instance>('PATCH', at(id), { body, ...call }),
    stop: (id: string, call: CallOptions = {}) => http.json<Instance>('POST', at(id, 'stop'), call),
    standby: (id: string, body: StandbyRequest = {}, call: CallOptions = {}) =>
      http.json<Instance>('POST', at(id, 'standby'), { body, ...call }),
    restore: (id: string, call: CallOptions = {}) => http.json<Instance>('POST', at(id, 'restore'), call),
    fork: (id: string, body: ForkInstance, call: CallOptions = {}) => http.json<Instance>('POST', at(id, 'fork'), { body, ...call }),
    delete: (id: string, query: { readonly graceful_shutdown?: boolean } = {}, call: CallOptions = {}) =>
      http.none('DELETE', at(id), { query, ...call }),
    stat: (id: string, query: { readonly path: string; readonly follow_links?: boolean }, call: CallOptions = {}) =>
      http.json<PathInfo>('GET', at(id, 'stat'), { query, ...call }),
    stats: (id: string, call: CallOptions = {}) => http.json<InstanceStats>('GET', at(id, 'stats'), call),
    /** Holds until the state is reached, can't be reached, or the time is up (a minute by default, five at most). */
    wait: (id: string, query: { readonly state: Exclude<InstanceState, 'Unknown'>; readonly timeout?: string }, call: CallOptions = {}) =>
      http.json<WaitResult>('GET', at(id, 'wait'), { query, ...call }),
    logs: (id: string, query: { readonly tail?: number; readonly follow?: boolean; readonly source?: LogSource }, call: CallOptions = {}) =>
      http.events<string>(at(id, 'logs'), { query, ...call }),
    events: (id: string, query: { readonly tail?: number; readonly follow?: boolean }, call: CallOptions = {}) =>
      http.events<InstanceEvent>(at(id, 'events'), { query, ...call }),
    snapshot: (id: string, body: SnapshotCreate, call: CallOptions = {}) =>
      http.json<Snapshot>('POST', at(id, 'snapshots'), { body, ...call }),
    restoreSnapshot: (id: string, snapshotId: string, body: RestoreSnapshot = {}, call: CallOptions = {}) =>
      http.json<Instance>('POST', at(id, `snapshots/${encodeURIComponent(snapshotId)}/restore`), { body, ...call }),
    volumes: {
      attach: (id: string, volumeId: string, body: VolumeAttach, call: CallOptions = {}) =>
        http.json<Instance>('POST', at(id, `volumes/${encodeURIComponent(volumeId)}`), { body, ...call }),
      /** What is on the volume stays. */
      detach: (id: string, volumeId: string, call: CallOptions = {}) =>
        http.json<Instance>('DELETE', at(id, `volumes/${encodeURIComponent(volumeId)}`), call),
    },
    autoStandby: {
      status: (id: string, call: CallOptions = {}) => http.json<AutoStandbyStatus>('GET', at(id, 'auto-standby/status'), call),
      /** `instance_in_standby` if it is there, or on its way. */
      hold: (id: string, call: CallOptions = {}) => http.json<AutoStandbyStatus>('POST', at(id, 'auto-standby/hold'), call),
    },
    schedule: {
      set: (id: string, body: SetSchedule, call: CallOptions = {}) =>
        http.json<Schedule>('PUT', at(id, 'snapshot-schedule'), { body, ...call }),
      get: (id: string, call: CallOptions = {}) => http.json<Schedule>('GET', at(id, 'snapshot-schedule'), call),
      /** The snapshots stay. */
      delete: (id: string, call: CallOptions = {}) => http.none('DELETE', at(id, 'snapshot-schedule'), call),
    },
  }
}

function snapshotOperations(http: Http) {
  const at = (id: string): string => `/snapshots/${encodeURIComponent(id)}`
  return {
    list: (query: SnapshotQuery = {}, call: CallOptions = {}) =>
      http.json<Snapshot[]>('GET', '/snapshots', { query: { ...query }, ...call }),
    get: (id: string, call: CallOptions = {}) => http.json<Snapshot>('GET', at(id), call),
    delete: (id: string, call: CallOptions = {}) => http.none('DELETE', at(id), call),
    /** Progress, then what was found; of all snapshots without an id. */
    verify: (id: string | undefined, call: CallOptions = {}) =>
      http.events<VerifyEvent>(id === undefined ? '/snapshots/verify' : `${at(id)}/verify`, call, 'POST'),
    fork: (id: string, body: ForkSnapshot, call: CallOptions = {}) => http.json<Instance>('POST', `${at(id)}/fork`, { body, ...call }),
  }
}

function volumeOperations(http: Http) {
  const at = (id: string): string => `/volumes/${encodeURIComponent(id)}`
  return {
    list: (query: { readonly tags?: Tags | undefined } = {}, call: CallOptions = {}) =>
      http.json<Volume[]>('GET', '/volumes', { query, ...call }),
    get: (id: string, call: CallOptions = {}) => http.json<Volume>('GET', at(id), call),
    create: (body: VolumeCreate, call: CallOptions = {}) => http.json<Volume>('POST', '/volumes', { body, ...call }),
    /** Makes a volume that holds the files of a gzipped tar archive. */
    createFromArchive: (query: VolumeCreate, archive: AsyncIterable<Uint8Array>, call: CallOptions = {}) =>
      http.upload<Volume>('POST', '/volumes/from-archive', 'application/gzip', archive, { query: { ...query }, ...call }),
    delete: (id: string, call: CallOptions = {}) => http.none('DELETE', at(id), call),
  }
}
