// Gets an image onto the server and waits until it can be run. An interrupt takes back what was begun.

import { setTimeout } from 'node:timers/promises'
import { ApiError } from '../client/errors.ts'
import type { Image, PullRequest } from '../client/client.ts'
import type { Session } from './context.ts'
import { imageName } from './output/text.ts'
import type { Progress } from './output/progress.ts'

/** How often the server is asked how far it is, in milliseconds. */
const ASK_EVERY_MS = 300

/** The image if the server has it, ready or on its way; nothing if it must be pulled. */
export async function findImage(session: Session, name: string): Promise<Image | undefined> {
  return await session.client.images.get(name, { signal: session.signal }).catch((error: unknown) => {
    if (error instanceof ApiError && error.status === 404) return undefined
    throw error
  })
}

/** Pulls an image; resolves once it is ready. A pull that this call began is taken back if it does not get there. */
export async function pullImage(session: Session, request: PullRequest, progress: Progress): Promise<Image> {
  await using undo = new AsyncDisposableStack()
  progress.say(`Looking up ${imageName(request.name)}`)
  const known = await findImage(session, request.name)
  const begun = await session.client.images.pull(request, { signal: session.signal })
  if (known === undefined && begun.status !== 'ready') undo.defer(() => discardImage(session, begun.name))
  const ready = await imageReady(session, begun, progress)
  undo.move()
  return ready
}

/** Resolves once a known image is ready; rejects with the reason if it has failed. */
export async function imageReady(session: Session, begun: Image, progress: Progress): Promise<Image> {
  for (let image = begun; ; image = await session.client.images.get(begun.name, { signal: session.signal })) {
    if (image.status === 'ready') return image
    if (image.status === 'failed')
      throw new Error(`the image ${imageName(image.name)} could not be made: ${image.error ?? 'the server gives no reason'}`)
    progress.say(...progressOf(image))
    await setTimeout(ASK_EVERY_MS, undefined, { signal: session.signal })
  }
}

function progressOf(image: Image): [text: string, detail?: string] {
  const name = imageName(image.name)
  switch (image.status) {
    case 'pending':
      return [`Waiting to pull ${name}`, ...(image.queue_position ? [`(number ${image.queue_position} in the queue)`] : [])] as [
        string,
        string?,
      ]
    case 'converting':
      return [`Making a root file system of ${name}`]
    default:
      return [`Pulling ${name}`]
  }
}

async function discardImage(session: Session, name: string): Promise<void> {
  await session.client.images.delete(name).catch((error: unknown) => {
    if (!(error instanceof ApiError && error.status === 404)) throw error
  })
}
