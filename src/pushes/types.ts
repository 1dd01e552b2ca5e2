// Pushes: images of this server on their way to other registries. Contract of this folder for the server.

import type { PushView } from '../api/schemas/push.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { RegistryCredentials } from '../images/types.ts'

export interface PushRequest {
  readonly image: string
  readonly target: string
  /** Over plain HTTP, also to other machines. */
  readonly insecure: boolean
  /** For this push alone: in memory until it has ended. Absent: the server's own. */
  readonly credentials?: RegistryCredentials | undefined
}

export interface PushService {
  /**
   * Queues a push and answers at once. The same image to the same target is one push, as long as it has not ended. `invalid_target`, `not_found`,
   * `image_not_ready`, `conflict` while another image is on its way there, `credential_conflict` while the same is with other credentials.
   */
  create(request: PushRequest): Promise<PushView>
  /** Newest first. */
  list(): readonly PushView[]
  /** By its id or a unique beginning of it; `not_found` or `ambiguous` otherwise. */
  get(id: string): PushView
  /** Records that can't be read. */
  unreadable(): readonly Unreadable[]
  /** Breaks off what is under way and waits for that; the next start goes on with it. */
  close(): Promise<void>
}
