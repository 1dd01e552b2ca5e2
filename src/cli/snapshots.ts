// Snapshots by the names that people gave them: the server itself knows them by id.

import type { Snapshot } from '../client/client.ts'
import type { Session } from './context.ts'

/** The id for a name, an id or the beginning of one. With `instance`, names of other instances' snapshots don't count. */
export async function snapshotId(session: Session, ref: string, instance?: string): Promise<string> {
  const named = await session.client.snapshots.list({ name: ref }, { signal: session.signal })
  const chosen = named.filter((one) => instance === undefined || isOf(one, instance))
  const [only] = chosen
  if (chosen.length > 1)
    throw new Error(
      `${chosen.length} snapshots are named ${ref}: give an id instead (${chosen.map((one) => `${one.id} of ${one.source_instance_name}`).join(', ')})`,
    )
  return only?.id ?? ref
}

/** The instance may be named by its id, its name or the beginning of its id. */
function isOf(snapshot: Snapshot, instance: string): boolean {
  return snapshot.source_instance_name === instance || snapshot.source_instance_id.startsWith(instance)
}
