// Makes an instance and sees it to the point that was asked for: made, running, or ended. What is left when that is cut off is removed or named.

import type { Instance, InstanceCreate, PullRequest } from '../client/client.ts'
import { ApiError } from '../client/errors.ts'
import type { Session } from './context.ts'
import { ensureImage } from './pull.ts'
import { whenEnded, whenRunning, whenStarted } from './wait.ts'

export interface RunPlan {
  readonly image: PullRequest
  readonly create: InstanceCreate
  /** How far to go: until it is made, until it runs, until its program has ended. */
  readonly until: 'created' | 'running' | 'ended'
  /** Delete the instance in the end, however that comes. */
  readonly remove: boolean
}

export async function runInstance(session: Session, plan: RunPlan): Promise<Instance> {
  await using undo = new AsyncDisposableStack()
  using progress = session.progress()
  await ensureImage(session, plan.image, progress)
  progress.say(`Creating ${plan.create.name}`)
  const created = await createWhole(session, plan.create)
  if (plan.remove) undo.defer(() => deleteInstance(session, created.id))
  try {
    session.signal.throwIfAborted()
    if (plan.until === 'created') return created
    if (plan.until === 'running') return await whenRunning(session, created, progress)
    const started = await whenStarted(session, created, progress)
    progress.clear()
    return await whenEnded(session, started)
  } catch (error) {
    if (session.signal.aborted && !plan.remove) session.note(`${created.name} goes on: hypeman rm --force ${created.name} deletes it`)
    throw error
  }
}

/**
 * Not cut off by an interrupt: the server would go on and nobody would know what it made. A create is short (it does not wait for the guest);
 * a second interrupt ends us all the same.
 */
async function createWhole(session: Session, body: InstanceCreate): Promise<Instance> {
  session.signal.throwIfAborted()
  const say = (): void => session.note(`Interrupted: waiting for the server's word on ${body.name}; interrupt again to leave at once`)
  session.signal.addEventListener('abort', say, { once: true })
  try {
    return await session.client.instances.create(body)
  } finally {
    session.signal.removeEventListener('abort', say)
  }
}

async function deleteInstance(session: Session, id: string): Promise<void> {
  await session.client.instances.delete(id).catch((error: unknown) => {
    if (!(error instanceof ApiError && error.status === 404)) throw error // gone already, by its time to live or by somebody
  })
}
