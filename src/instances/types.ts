// What may be asked of instances. Each method takes and returns what the wire says, checked by the schemas; rules live behind it.
// Operations go on when the caller has gone: only reads and waits take a signal.

import type { AgentClient } from '../agent/contract.ts'
import type { InstanceState } from '../api/actions.ts'
import type { InstanceEvent } from '../api/events.ts'
import type { AutoStandbyStatus } from '../api/schemas/auto-standby.ts'
import type {
  CreateInstanceBody,
  EventsQuery,
  ForkInstanceBody,
  InstanceFilter,
  LogsQuery,
  StartInstanceBody,
  UpdateInstanceBody,
} from '../api/schemas/instance-requests.ts'
import type { StandbyInstanceBody } from '../api/schemas/snapshot-policy.ts'
import type { AttachVolumeBody } from '../api/schemas/volume.ts'
import type { InstanceStats, InstanceView, PathInfo, WaitResult } from '../api/schemas/instance.ts'

/** `ref` is an id, a name, or a unique prefix of an id; `by` is the subject that asks. */
export interface InstanceService {
  create(body: CreateInstanceBody, by: string): Promise<InstanceView>
  list(filter: InstanceFilter): Promise<InstanceView[]>
  get(ref: string): Promise<InstanceView>
  update(ref: string, body: UpdateInstanceBody, by: string): Promise<InstanceView>
  remove(ref: string, options: { readonly gracefulShutdown: boolean }): Promise<void>
  start(ref: string, body: StartInstanceBody): Promise<InstanceView>
  stop(ref: string): Promise<InstanceView>
  standby(ref: string, body: StandbyInstanceBody): Promise<InstanceView>
  restore(ref: string): Promise<InstanceView>
  fork(ref: string, body: ForkInstanceBody, by: string): Promise<InstanceView>
  /** `volumeRef` is the id or name of a volume. */
  attachVolume(ref: string, volumeRef: string, body: AttachVolumeBody): Promise<InstanceView>
  detachVolume(ref: string, volumeRef: string): Promise<InstanceView>
  wait(ref: string, state: InstanceState, timeoutMs: number, signal: AbortSignal): Promise<WaitResult>
  /** Lines without their ends. The first step of the iteration fails with `not_found` or `log_not_found` if there is nothing to read. */
  logs(ref: string, query: LogsQuery, signal: AbortSignal): AsyncIterable<string>
  events(ref: string, query: EventsQuery, signal: AbortSignal): AsyncIterable<InstanceEvent>
  stat(ref: string, path: string, followLinks: boolean, signal: AbortSignal): Promise<PathInfo>
  stats(ref: string, signal: AbortSignal): Promise<InstanceStats>
  autoStandbyStatus(ref: string): Promise<AutoStandbyStatus>
  /** `instance_in_standby` if it is there, or on its way. */
  holdAwake(ref: string): Promise<AutoStandbyStatus>
  /** Somebody uses it until the result is disposed of: it does not go to standby by itself. */
  occupy(ref: string): Disposable
  /** The guest agent of an instance, for exec and copy. `invalid_state` unless it is Running; with `waitMs` it may still become so. */
  agent(ref: string, waitMs: number, signal: AbortSignal): Promise<AgentClient>
}
