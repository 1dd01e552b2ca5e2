// Flow: delete a snapshot. It becomes invisible by one rename, then it is removed; source and forks keep what they share by their own links.

import { HypemanError } from '../api/errors.ts'
import { moveToTrash } from '../files/stage.ts'
import { step } from '../platform/flow.ts'
import { holdSnapshot, snapshotFlow, type SnapshotContext } from './context.ts'
import type { SnapshotRecord } from './record.ts'

/** Deletes what lies among the snapshots and can't be read; false if there is no such thing. */
export async function removeUnreadable({ store, instances: { layout, log } }: SnapshotContext, id: string): Promise<boolean> {
  const found = store.unreadable.get(id)
  if (found === undefined) return false
  await moveToTrash(layout, found.path)
  store.unreadable.delete(id)
  log.info({ path: found.path }, "a snapshot that can't be read was deleted")
  return true
}

/** `waitMs` is for those who read it, by default as long as for any other operation. */
export async function removeSnapshot(context: SnapshotContext, record: SnapshotRecord, waitMs?: number): Promise<void> {
  using _quiet = await context.compressor.pause(record.id)
  using _hold = await holdSnapshot(context, record, false, waitMs)
  if (context.store.byId(record.id) === undefined) throw new HypemanError('not_found', `the snapshot ${record.id} is gone`)
  const { layout } = context.instances
  await context.keeper.drop(record.id)
  await context.instances.spares?.drop(record.id)
  using flow = snapshotFlow(context, record.sourceInstanceId, 'snapshot.delete', record.id)
  await step(flow, 'remove', async () => {
    await moveToTrash(layout, layout.snapshot(record.id))
    context.store.forget(record)
  })
}
