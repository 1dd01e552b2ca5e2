// The door of pushes: images of this server on their way to other registries.

import { Pushes, type PushServiceOptions } from './service.ts'
import type { PushService } from './types.ts'

/** Reads the pushes on disk and goes on with those that had not ended. `close` breaks them off. */
export async function createPushService(options: PushServiceOptions): Promise<PushService> {
  const pushes = new Pushes(options)
  await pushes.open()
  return pushes
}
