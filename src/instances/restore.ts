// Flow: restore a standby instance (`POST /instances/{id}/restore`), and start a stopped one (`POST /instances/{id}/start`).

import { step } from '../platform/flow.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { permit } from './permission.ts'
import { noRestarts } from './restart-policy.ts'
import { bootInstance, resumeInstance } from './start.ts'

/** Returns when the agent has answered. */
export async function restoreInstance(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  using _lock = await lockInstance(context, entry)
  await permit(entry, 'restore')
  using flow = flowOn(context, entry.id, 'instance.restore')
  await resumeInstance(context, entry, flow)
}

export interface StartInstance {
  readonly entrypoint?: readonly string[] | undefined
  readonly cmd?: readonly string[] | undefined
}

/** Returns when the VMM runs; the instance is then `Initializing`. A new entrypoint or command is kept for later starts. */
export async function startInstance(context: InstanceContext, entry: InstanceEntry, request: StartInstance): Promise<void> {
  using _lock = await lockInstance(context, entry)
  await permit(entry, 'start')
  const { record } = entry
  const command = { entrypoint: request.entrypoint ?? record.entrypoint, cmd: request.cmd ?? record.cmd, restarts: noRestarts }
  await using undo = new AsyncDisposableStack()
  undo.defer(() => context.store.update(entry, { entrypoint: record.entrypoint, cmd: record.cmd, restarts: record.restarts }))
  using flow = flowOn(context, entry.id, 'instance.start')
  await step(flow, 'command', () => context.store.update(entry, command))
  await bootInstance(context, entry, flow, 'background')
  undo.move()
}
