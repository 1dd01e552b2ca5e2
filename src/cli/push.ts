// Waits until a push has ended, and shows what it is at. An interrupt ends the waiting alone: the server goes on.

import { setTimeout } from 'node:timers/promises'
import type { Push } from '../client/client.ts'
import type { Session } from './context.ts'
import type { Progress } from './output/progress.ts'
import { imageName } from './output/text.ts'

/** How often the server is asked how far it is, in milliseconds. */
const ASK_EVERY_MS = 500

/** Resolves once the target has the image; rejects with the reason if it could not be sent. */
export async function whenPushed(session: Session, begun: Push, progress: Progress): Promise<Push> {
  try {
    for (let push = begun; ; push = await session.client.pushes.get(begun.id, { signal: session.signal })) {
      if (push.status === 'pushed') return push
      if (push.status === 'failed')
        throw new Error(`${imageName(push.image)} could not be pushed: ${push.error ?? 'the server gives no reason'}`)
      progress.say(doingWith(push), push.status === 'queued' ? queueOf(push) : undefined)
      await setTimeout(ASK_EVERY_MS, undefined, { signal: session.signal })
    }
  } catch (error) {
    if (session.signal.aborted) session.note(`The push goes on: hypeman push get ${begun.id} tells how far it is`)
    throw error
  }
}

function doingWith({ status, image, target }: Push): string {
  return `${status === 'queued' ? 'Waiting to push' : 'Pushing'} ${imageName(image)} to ${imageName(target)}`
}

function queueOf(push: Push): string {
  return push.queue_position ? `(number ${push.queue_position} in the queue)` : ''
}
