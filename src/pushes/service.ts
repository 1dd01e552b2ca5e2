// What may be asked of pushes, and the queue that they wait in: a few at a time, in the order in which they were asked for. How an image is sent is
// images/upload.ts. A push holds what it sends: the image can be deleted meanwhile, and goes when the push has ended.

import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import { HypemanError, isHypemanError } from '../api/errors.ts'
import type { PushView } from '../api/schemas/push.ts'
import type { Unreadable } from '../api/schemas/unreadable.ts'
import type { DataLayout } from '../files/layout.ts'
import { createStaged } from '../files/stage.ts'
import { parseReference, uploadImage, type Reference } from '../images/index.ts'
import type { ImageService, ReadyImage, RegistryCredentials } from '../images/types.ts'
import { loggedFlow, messageOf, step, type FaultPlan, type OpenFlow } from '../platform/flow.ts'
import { newId } from '../platform/ids.ts'
import { KeyedLock } from '../platform/keyed-lock.ts'
import type { PushRecord } from './record.ts'
import { PushStore } from './store.ts'
import type { PushRequest, PushService } from './types.ts'

export interface PushServiceOptions {
  readonly layout: DataLayout
  readonly log: Logger
  readonly images: Pick<ImageService, 'ready' | 'kept' | 'hold'>
  /** How many are sent at the same time. */
  readonly atOnce: number
  /** A request waits no longer for another one to the same target to be written down, in milliseconds. */
  readonly lockWaitMs: number
  readonly faults?: FaultPlan | undefined
  /** A push has ended: what it alone held may go. */
  ended(): void
}

/** A push that has not ended. */
interface Job {
  readonly record: PushRecord
  readonly credentials: RegistryCredentials | undefined
  readonly hold: Disposable
  sending: boolean
}

type Outcome = Pick<PushRecord, 'status' | 'layers' | 'bytes' | 'error'>

export class Pushes implements PushService {
  readonly #options: PushServiceOptions
  readonly #store: PushStore
  /** By id, in the order in which they were asked for. */
  readonly #jobs = new Map<string, Job>()
  /** By target. */
  readonly #locks = new KeyedLock()
  readonly #closing = new AbortController()
  readonly #under = new Set<Promise<void>>()

  constructor(options: PushServiceOptions) {
    this.#options = options
    this.#store = new PushStore(options.layout, options.log)
  }

  async open(): Promise<void> {
    await this.#store.load()
    for (const record of this.#store.list())
      if (record.status === 'unfinished') {
        if (record.borrowed) await this.#end(record, failed(CREDENTIALS_GONE))
        else this.#enter(record, undefined)
      }
    this.#next()
  }

  async create(request: PushRequest): Promise<PushView> {
    const target = parseTarget(request.target)
    using _lock = await this.#locks.acquire(target.name, { waitMs: this.#options.lockWaitMs, what: `the target ${target.name}` })
    this.#closing.signal.throwIfAborted()
    const { name, digest } = this.#ready(request.image)
    await using undo = new AsyncDisposableStack()
    const hold = undo.use(this.#options.images.hold(digest))
    if ((await this.#options.images.kept(digest)) === undefined)
      throw new HypemanError(
        'conflict',
        `the layers of ${name} were not kept when it was made, by an older version; pull, import or push it here again, then push it`,
      )
    const present = [...this.#jobs.values()].find(({ record }) => record.target === target.name)
    if (present !== undefined) return this.#join(present, digest, request)
    const record: PushRecord = {
      version: 1,
      id: newId(),
      image: name,
      target: target.name,
      digest,
      insecure: request.insecure,
      borrowed: request.credentials !== undefined,
      status: 'unfinished',
      createdAt: this.#now(),
      completedAt: null,
      layers: null,
      bytes: null,
      error: null,
    }
    using flow = this.#flow('push.create', record)
    undo.defer(() => this.#store.drop(record.id))
    await step(flow, 'record', () => this.#store.add(record))
    undo.move()
    this.#enter(record, request.credentials, hold)
    this.#next()
    return this.get(record.id)
  }

  list(): readonly PushView[] {
    return this.#store
      .list()
      .toReversed()
      .map((record) => this.#view(record))
  }

  get(id: string): PushView {
    const exact = this.#store.byId(id)
    const matching = exact === undefined ? this.#store.list().filter((record) => record.id.startsWith(id)) : [exact]
    const [record] = matching
    if (record === undefined) throw new HypemanError('not_found', `there is no push ${JSON.stringify(id)}; hypeman push list shows all`)
    if (matching.length > 1)
      throw new HypemanError('ambiguous', `${matching.length} pushes begin with ${JSON.stringify(id)}; give more of the id`)
    return this.#view(record)
  }

  unreadable(): readonly Unreadable[] {
    return this.#store.unreadable()
  }

  async close(): Promise<void> {
    this.#closing.abort(new HypemanError('canceled', 'the server is stopping; the push goes on when it is back'))
    await Promise.all(this.#under)
    for (const { hold } of this.#jobs.values()) hold[Symbol.dispose]()
  }

  #ready(image: string): ReadyImage {
    try {
      return this.#options.images.ready(image)
    } catch (error) {
      if (!isHypemanError(error, 'image_not_ready')) throw error
      throw new HypemanError('image_not_ready', error.message, { cause: error, ofState: true })
    }
  }

  /** The push that is under way to the same target, if it is the same. */
  #join({ record, credentials }: Job, digest: string, request: PushRequest): PushView {
    const { id, target } = record
    if (record.digest !== digest || record.insecure !== request.insecure)
      throw new HypemanError('conflict', `another push to ${target} is under way (${id}); wait for it to end, then push again`)
    if (!isDeepStrictEqual(credentials, request.credentials))
      throw new HypemanError(
        'credential_conflict',
        `this push to ${target} is under way with other credentials (${id}); wait for it to end, then push again`,
      )
    return this.get(id)
  }

  /** Strictly later than all before, so that the order in which pushes were asked for can be told. */
  #now(): string {
    const last = this.#store.list().at(-1)?.createdAt
    return new Date(Math.max(Date.now(), last === undefined ? 0 : Date.parse(last) + 1)).toISOString()
  }

  #enter(record: PushRecord, credentials: RegistryCredentials | undefined, hold = this.#options.images.hold(record.digest)): void {
    this.#jobs.set(record.id, { record, credentials, hold, sending: false })
  }

  #next(): void {
    const waiting = [...this.#jobs.values()].filter(({ sending }) => !sending)
    const free = this.#closing.signal.aborted ? 0 : this.#options.atOnce - (this.#jobs.size - waiting.length)
    for (const job of waiting.slice(0, Math.max(0, free))) {
      job.sending = true
      const run = this.#run(job).finally(() => this.#under.delete(run))
      this.#under.add(run)
    }
  }

  /** Never rejects: how a push ends is told by its record. */
  async #run({ record, credentials, hold }: Job): Promise<void> {
    const outcome = await this.#send(record, credentials)
    // One that was broken off is gone on with by the next start.
    if (outcome === undefined) return
    await this.#end(record, outcome)
    hold[Symbol.dispose]()
    this.#options.ended()
    this.#next()
  }

  async #send(record: PushRecord, credentials: RegistryCredentials | undefined): Promise<Outcome | undefined> {
    const { layout, images } = this.#options
    const { signal } = this.#closing
    try {
      using flow = this.#flow('push.send', record)
      const image = await images.kept(record.digest)
      if (image === undefined)
        throw new HypemanError('not_found', `the image ${record.image} is not here any more; pull it again, then push it`)
      await step(flow, 'upload', async () => {
        await using work = await createStaged(layout, `push-${record.id}`)
        const { insecure } = record
        await uploadImage({ image, target: parseReference(record.target), credentials, insecure, work: work.path, signal })
      })
      return { status: 'pushed', layers: image.layers, bytes: image.layerBytes, error: null }
    } catch (error) {
      if (signal.aborted) return undefined
      this.#options.log.warn({ push: record.id, image: record.image, target: record.target, reason: messageOf(error) }, 'a push failed')
      return failed(isHypemanError(error) ? error.message : messageOf(error))
    }
  }

  async #end(record: PushRecord, outcome: Outcome): Promise<void> {
    const write = this.#store.end({ ...record, ...outcome, completedAt: new Date().toISOString() })
    // In the same moment: who sees that it has ended can push anew.
    this.#jobs.delete(record.id)
    try {
      using flow = this.#flow('push.end', record)
      await step(flow, 'record', write)
      await this.#store.dropOld()
    } catch (error) {
      // It has ended all the same. At worst the next start sends it again, and finds that all is there.
      this.#options.log.error({ push: record.id, reason: messageOf(error) }, 'the end of a push could not be written')
    }
  }

  #flow(name: string, { id, image, target }: PushRecord): OpenFlow {
    return loggedFlow(this.#options, name, { push: id, image, target })
  }

  #view(record: PushRecord): PushView {
    const { id, image, target, digest, createdAt, completedAt, layers, bytes, error } = record
    return {
      id,
      status: this.#statusOf(record),
      image,
      target,
      digest,
      created_at: createdAt,
      ...(completedAt === null ? {} : { completed_at: completedAt }),
      ...this.#positionOf(id),
      ...(layers === null ? {} : { layers }),
      ...(bytes === null ? {} : { bytes }),
      ...(error === null ? {} : { error }),
    }
  }

  #statusOf({ id, status }: PushRecord): PushView['status'] {
    if (status !== 'unfinished') return status
    return this.#jobs.get(id)?.sending === true ? 'pushing' : 'queued'
  }

  #positionOf(id: string): { readonly queue_position?: number } {
    const waiting = [...this.#jobs.values()].filter(({ sending }) => !sending)
    const at = waiting.findIndex(({ record }) => record.id === id)
    return at < 0 ? {} : { queue_position: at + 1 }
  }
}

const CREDENTIALS_GONE =
  'the server ended before the push had, and credentials that come with a push are kept in memory only: push again, with credentials'

function failed(error: string): Outcome {
  return { status: 'failed', layers: null, bytes: null, error }
}

/** A reference that a registry can be made to have. */
function parseTarget(text: string): Reference {
  try {
    const reference = parseReference(text)
    if (reference.digest === undefined) return reference
  } catch (cause) {
    throw new HypemanError('invalid_target', `target: ${messageOf(cause)}`, { cause })
  }
  throw new HypemanError('invalid_target', `target: ${text} names a digest, which can't be chosen; give a tag`)
}
