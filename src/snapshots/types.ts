// What may be asked of snapshots, in the wire's words.

import type { InstanceView } from '../api/schemas/instance.ts'
import type { CreateSnapshotBody, ForkSnapshotBody, RestoreSnapshotBody, SnapshotFilter, SnapshotView } from '../api/schemas/snapshot.ts'
import type { VerifyEvent } from '../api/schemas/verification.ts'

/** `id` is a snapshot's id or a unique prefix of it; `by` is the subject that asks. */
export interface SnapshotService {
  create(instanceRef: string, body: CreateSnapshotBody, by: string): Promise<SnapshotView>
  list(filter: SnapshotFilter): Promise<SnapshotView[]>
  get(id: string): Promise<SnapshotView>
  remove(id: string): Promise<void>
  restore(instanceRef: string, id: string, body: RestoreSnapshotBody): Promise<InstanceView>
  /** Reads everything. The first step of the iteration fails with `not_found` if there is no such snapshot. */
  verify(id: string, signal: AbortSignal): AsyncIterable<VerifyEvent>
  /** All of them one after another, also those whose record can't be read. */
  verifyAll(signal: AbortSignal): AsyncIterable<VerifyEvent>
  fork(id: string, body: ForkSnapshotBody, by: string): Promise<InstanceView>
}
