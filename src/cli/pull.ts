// Gets an image onto the server and waits until it can be run. An interrupt takes back what was begun.

import { setTimeout } from 'node:timers/promises'
import { ApiError } from '../client/errors.ts'
import type { Image, ImageEvent, PullRequest } from '../client/client.ts'
import type { Session } from './context.ts'
import { imageName, size } from './output/text.ts'
import type { Progress } from './output/progress.ts'

/** How often the server is asked how far it is, in milliseconds. */
const ASK_EVERY_MS = 300

/** The image if the server has it, ready or on its way; nothing if it must be pulled. */
async function findImage(session: Session, name: string): Promise<Image | undefined> {
  return await session.client.images.get(name, { signal: session.signal }).catch((error: unknown) => {
    if (error instanceof ApiError && error.status === 404) return undefined
    throw error
  })
}

/** Resolves once the server has the image ready, pulling it if need be. */
export async function ensureImage(session: Session, request: PullRequest, progress: Progress): Promise<Image> {
  const known = request.platform === undefined ? await findImage(session, request.name) : undefined
  return known === undefined || known.status === 'failed'
    ? await pullImage(session, request, progress)
    : await imageReady(session, known, progress)
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
async function imageReady(session: Session, begun: Image, progress: Progress): Promise<Image> {
  if (begun.status === 'ready') return begun
  let bytes = ''
  using _watch = watchProgress(session, begun, (event) => {
    bytes = bytesOf(event)
  })
  for (let image = begun; ; image = await session.client.images.get(begun.name, { signal: session.signal })) {
    if (image.status === 'ready') return image
    if (image.status === 'failed')
      throw new Error(`the image ${imageName(image.name)} could not be made: ${image.error ?? 'the server gives no reason'}`)
    progress.say(doingWith(image), image.status === 'pending' ? queueOf(image) : bytes)
    await setTimeout(ASK_EVERY_MS, undefined, { signal: session.signal })
  }
}

function doingWith(image: Image): string {
  const name = imageName(image.name)
  if (image.status === 'pending') return `Waiting to pull ${name}`
  return image.status === 'converting' ? `Making a root file system of ${name}` : `Pulling ${name}`
}

function queueOf(image: Image): string {
  return image.queue_position ? `(number ${image.queue_position} in the queue)` : ''
}

/** `12.0 MB of 80.4 MB, 15 %`. */
function bytesOf(event: ImageEvent): string {
  const { done_bytes: done, total_bytes: total } = event
  if (done === undefined) return ''
  return total === undefined || total === 0 ? size(done) : `${size(done)} of ${size(total)}, ${Math.floor((100 * done) / total)} %`
}

/** Tells each piece of an image's progress until it is disposed of. */
function watchProgress(session: Session, image: Image, tell: (event: ImageEvent) => void): Disposable {
  const left = new AbortController()
  const signal = AbortSignal.any([session.signal, left.signal])
  const watching = (async () => {
    for await (const event of session.client.images.events({ signal })) if (event.name === image.name) tell(event)
  })()
  // Counts of bytes only decorate the waiting, and not every server has them: the state is asked for beside.
  watching.catch(() => undefined)
  return { [Symbol.dispose]: () => left.abort() }
}

async function discardImage(session: Session, name: string): Promise<void> {
  await session.client.images.delete(name).catch((error: unknown) => {
    if (!(error instanceof ApiError && error.status === 404)) throw error
  })
}
