// Flow: delete. First the instance becomes invisible (its directory is renamed away), then it is removed. Snapshots and forks stay.

import { HypemanError } from '../api/errors.ts'
import { moveToTrash } from '../files/stage.ts'
import { step } from '../platform/flow.ts'
import { stopCompressing } from './compress-standby.ts'
import { flowOn, lockInstance, type InstanceContext } from './context.ts'
import type { InstanceEntry } from './entry.ts'
import { killMachine } from './machine.ts'
import { endVmmsIn } from './recover.ts'
import { askToStop } from './stop.ts'

/** Longest grace that a graceful delete gives the guest, in milliseconds. */
const DELETE_GRACE_MS = 2_000

export interface RemoveOptions {
  /** Gives the guest a moment to shut down first. */
  readonly graceful: boolean
  /** Asked once nothing else is under way: true keeps the instance. */
  readonly unless?: () => boolean
}

export async function removeInstance(context: InstanceContext, entry: InstanceEntry, { graceful, unless }: RemoveOptions): Promise<void> {
  using _lock = await lockInstance(context, entry)
  if (unless?.() === true) return
  using flow = flowOn(context, entry.id, 'instance.delete')
  if (graceful && entry.machine !== undefined) await step(flow, 'ask', () => askToStop(context, entry, DELETE_GRACE_MS))
  await step(flow, 'remove', () => removeCommitted(context, entry))
  context.events.state(entry.id, 'Deleted', 'deleted')
}

/** Deletes what lies among the instances and can't be read, with what runs from it; false if there is no such thing. */
export async function removeUnreadable({ store, layout, log, hostNetwork }: InstanceContext, id: string): Promise<boolean> {
  const found = store.unreadable().find((one) => one.id === id)
  if (found === undefined) return false
  await endVmmsIn(layout, found.path)
  await hostNetwork.detach(id)
  await moveToTrash(layout, found.path)
  store.forgetUnreadable(id)
  log.info({ path: found.path }, "an instance that can't be read was deleted")
  return true
}

/** Ends the process and removes the directory; the caller holds the lock. Also the undo of flows that made the instance. */
export async function removeCommitted(context: InstanceContext, entry: InstanceEntry): Promise<void> {
  using undo = new DisposableStack()
  undo.defer(() => {
    entry.removing = false
  })
  entry.removing = true
  await stopCompressing(entry)
  await killMachine(context, entry, new HypemanError('guest_unreachable', `the instance ${entry.record.name} is being deleted`))
  await moveToTrash(context.layout, context.layout.instance(entry.id))
  context.store.forget(entry)
  undo.move()
}
